// asma_fast._native: arrays, threads, instruction sets and the CPU ops. No torch header is seen here.
#include <pybind11/stl.h>

#include <array>

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {

void check_sizes(const Array& array, std::initializer_list<std::int64_t> wanted, const char* what) {
    bool same = array.rank == static_cast<std::int32_t>(wanted.size());
    int axis = 0;
    for (const std::int64_t size : wanted) same = same && array.size(axis++) == size;
    if (!same) throw py::value_error(std::string(what) + " does not have the sizes its op allocates");
}

void check_indices(const Array& map, std::int64_t limit, const char* what) {
    const auto* entries = map.data<const std::int32_t>(what);
    for (std::int64_t row = 0; row < map.size(0); ++row)
        for (std::int64_t column = 0; column < map.size(1); ++column) {
            const std::int32_t entry = entries[row * map.stride(0) + column * map.stride(1)];
            if (entry < 0 || entry >= limit)
                throw py::value_error(std::string(what) + " must lie in [0, " + std::to_string(limit) + "), got " +
                                      std::to_string(entry) + " at (" + std::to_string(row) + ", " +
                                      std::to_string(column) + ")");
        }
}

namespace {

// Tuples are read directly: this runs for every array of every call, and a conversion to vectors would double its cost.
void read_integers(const py::tuple& tuple, std::array<std::int64_t, Array::max_rank>& integers) {
    for (std::size_t i = 0; i < tuple.size(); ++i) {
        const std::int64_t value = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i)));
        if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
        integers[i] = value;
    }
}

Array make_array(std::uintptr_t address, const py::tuple& sizes, const py::tuple& strides, DType dtype,
                 std::int32_t device, std::uintptr_t stream) {
    if (sizes.size() != strides.size() || sizes.size() > static_cast<std::size_t>(Array::max_rank))
        throw py::value_error("an array has as many strides as sizes, at most " + std::to_string(Array::max_rank));
    Array array;
    array.address = address;
    array.stream = stream;
    array.rank = static_cast<std::int32_t>(sizes.size());
    read_integers(sizes, array.sizes);
    read_integers(strides, array.strides);
    array.dtype = dtype;
    array.device = device;
    return array;
}

}  // namespace
}  // namespace asma::bindings

PYBIND11_MODULE(_native, module, pybind11::mod_gil_not_used()) {
    using namespace asma;
    using namespace asma::bindings;
    module.doc() = "Native core of asma_fast.";

    py::enum_<DType> dtype(module, "DType");
    for (int code = 0; code <= static_cast<int>(DType::boolean); ++code)
        dtype.value(name(static_cast<DType>(code)), static_cast<DType>(code));
    py::class_<Array>(module, "Array")
        .def(py::init(&make_array), py::arg("address"), py::arg("sizes"), py::arg("strides"), py::arg("dtype"),
             py::arg("device") = -1, py::arg("stream") = 0);

    module.def("adopt_thread_pool", &adopt_thread_pool);
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("threads"));
    module.def("thread_pool_name", &thread_pool_name);
    module.def("instruction_set", &cpu::instruction_set);
    module.def("available_instruction_sets", &cpu::available_instruction_sets);
    module.def("set_instruction_set", &cpu::set_instruction_set, py::arg("name"));

    bind_block(module);
    bind_data(module);
    bind_dropout(module);
    bind_edge(module);
    bind_gather_view(module);
    bind_graph_conv(module);
    bind_joint_degree(module);
    bind_memory_pool(module);
    bind_missing(module);
    bind_moments(module);
    bind_motion(module);
    bind_sampling(module);
    bind_temporal_conv(module);
}
