// What the files of the Python module share.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>

#include "core/array.hpp"

namespace asma::bindings {

namespace py = pybind11;
using release_gil = py::call_guard<py::gil_scoped_release>;

// Calls body with a value of the array's floating type: the CPU kernels exist for float and double.
template <class Body> void with_real(const Array& array, const char* what, Body&& body) {
    if (array.dtype == DType::f32)
        body(float{});
    else if (array.dtype == DType::f64)
        body(double{});
    else
        throw py::type_error(std::string(what) + " must be float32 or float64 for the CPU kernels, got " +
                             name(array.dtype));
}

// An output, or another array whose shape follows from the rest, is as large as the kernel will take it to be.
void check_sizes(const Array& array, std::initializer_list<std::int64_t> wanted, const char* what);

// Every entry of a (rows, columns) int32 map must lie in [0, limit): checked before any kernel touches memory.
void check_indices(const Array& map, std::int64_t limit, const char* what);

void bind_block(py::module_& module);
void bind_data(py::module_& module);
void bind_dropout(py::module_& module);
void bind_edge(py::module_& module);
void bind_gather_view(py::module_& module);
void bind_graph_conv(py::module_& module);
void bind_joint_degree(py::module_& module);
void bind_memory_pool(py::module_& module);
void bind_missing(py::module_& module);
void bind_moments(py::module_& module);
void bind_motion(py::module_& module);
void bind_sampling(py::module_& module);
void bind_temporal_conv(py::module_& module);

}  // namespace asma::bindings
