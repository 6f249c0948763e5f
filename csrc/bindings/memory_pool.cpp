// Large tensors in memory of the pool, handed to torch as DLPack capsules: no Python object owns the memory, so torch may
// free it on any thread, without the interpreter's lock.
#include "core/memory_pool.hpp"

#include <array>
#include <memory>

#include "bindings/bindings.hpp"
#include "core/scratch.hpp"

namespace asma::bindings {
namespace {

// DLPack's exchange structures, version 0 (https://dmlc.github.io/dlpack): a binary interface, not code of theirs.
struct DLManagedTensor {
    void* data;
    std::int32_t device_type, device_id;
    std::int32_t rank;
    std::uint8_t kind, bits;
    std::uint16_t lanes;
    std::int64_t *sizes, *strides;
    std::uint64_t byte_offset;
    void* context;
    void (*deleter)(DLManagedTensor*);
};
constexpr std::int32_t dl_cpu = 1;
constexpr std::uint8_t dl_float = 2;
constexpr const char* unread_capsule = "dltensor";  // its reader renames it

struct PooledTensor {
    DLManagedTensor tensor{};
    std::array<std::int64_t, Array::max_rank> sizes{}, strides{};
    ~PooledTensor() {
        if (tensor.data) release_pooled(tensor.data);
    }
};

void free_tensor(DLManagedTensor* tensor) {
    delete static_cast<PooledTensor*>(tensor->context);
}

void free_unread(PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, unread_capsule))
        free_tensor(static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, unread_capsule)));
}

// A capsule for torch.from_dlpack: an uninitialised float32 or float64 tensor of that shape whose axes lie densely in
// memory in `order`, slowest first. None where the pool does not serve that size.
py::object pooled_tensor(const py::tuple& shape, const py::tuple& order, DType dtype) {
    if (shape.size() != order.size() || shape.size() > static_cast<std::size_t>(Array::max_rank))
        throw py::value_error("a tensor has as many axes in order as in its shape, at most " +
                              std::to_string(Array::max_rank));
    if (dtype != DType::f32 && dtype != DType::f64) return py::none();
    auto made = std::make_unique<PooledTensor>();
    const std::int64_t width = dtype == DType::f32 ? 4 : 8;
    std::int64_t step = 1;
    for (std::size_t place = order.size(); place-- > 0;) {
        const auto axis = order[place].cast<std::size_t>();
        if (axis >= shape.size() || made->sizes[axis] != 0)
            throw py::value_error("order must name the axes of the shape, each once");
        made->sizes[axis] = shape[axis].cast<std::int64_t>();
        made->strides[axis] = step;
        if (made->sizes[axis] < 1) return py::none();
        step = checked_product({step, made->sizes[axis]});
    }
    void* memory = acquire_pooled(static_cast<std::size_t>(checked_product({step, width})));
    if (!memory) return py::none();
    made->tensor = {memory, dl_cpu, 0, static_cast<std::int32_t>(shape.size()), dl_float,
                    static_cast<std::uint8_t>(8 * width), 1, made->sizes.data(), made->strides.data(), 0, made.get(),
                    &free_tensor};
    PyObject* capsule = PyCapsule_New(&made->tensor, unread_capsule, &free_unread);
    if (!capsule) throw py::error_already_set();
    made.release();
    return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

void bind_memory_pool(py::module_& module) {
    module.def("pooled_tensor", &pooled_tensor, py::arg("shape"), py::arg("order"), py::arg("dtype"));
    module.def("pool_size", [] {
        const PoolSize size = pool_size();
        return py::make_tuple(size.used, size.idle);
    });
}

}  // namespace asma::bindings
