// The ops on a device as a Python module of their own: asma_fast._cuda, or, on an emulated device, what tests load. Its
// arrays are those of asma_fast._native, which is imported first.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/ops.hpp"
#if defined(ASMA_CUDA_EMULATED)
#include "cuda/emulation/device.hpp"
#endif

namespace py = pybind11;

PYBIND11_MODULE(ASMA_CUDA_MODULE, module, py::mod_gil_not_used()) {
    using namespace asma;
    using release_gil = py::call_guard<py::gil_scoped_release>;
    module.doc() = "CUDA kernels of asma_fast.";
    py::module_::import("asma_fast._native");

    module.def("driver_why_not", &cuda::driver_why_not);
    module.def("device_why_not", &cuda::device_why_not);
    module.def("joint_degree", &cuda::joint_degree, py::arg("edges"), py::arg("degree"), release_gil());
    module.def("frame_motion", &cuda::frame_motion, py::arg("x"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("replicate"), py::arg("out"), release_gil());
    module.def("joint_motion", &cuda::joint_motion, py::arg("x"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("out"), release_gil());
    module.def("frame_and_joint_motion", &cuda::frame_and_joint_motion, py::arg("x"), py::arg("frames"),
               py::arg("joints"), py::arg("transform"), py::arg("replicate"), py::arg("frame_out"),
               py::arg("joint_out"), release_gil());
    module.def("sample_joints", &cuda::sample_joints, py::arg("weights"), py::arg("drop"), py::arg("seed"),
               py::arg("ids"), py::arg("kept"), release_gil());
    module.def("sample_frames", &cuda::sample_frames, py::arg("scores"), py::arg("drop"), py::arg("high"),
               py::arg("random_drop"), py::arg("seed"), py::arg("ids"), py::arg("kept"), release_gil());
    module.def("gather_view", &cuda::gather_view, py::arg("x"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("out"), release_gil());
    module.def("gather_view_backward", &cuda::gather_view_backward, py::arg("g"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("x_grad"), release_gil());
    // These take, after the arguments that the CPU's have, whether TF32 may be used, and then a workspace of as many
    // numbers as the function of that name says.
    module.attr("products") =
        py::make_tuple("graph_conv", "graph_conv_backward", "temporal_conv", "temporal_conv_backward");
    module.def("graph_conv", &cuda::graph_conv, release_gil());
    module.def("graph_conv_backward", &cuda::graph_conv_backward, release_gil());
    module.def("graph_conv_backward_workspace", &cuda::graph_conv_backward_workspace);
    module.def("temporal_conv", &cuda::temporal_conv, release_gil());
    module.def("temporal_conv_backward", &cuda::temporal_conv_backward, release_gil());
    module.def("temporal_conv_backward_workspace", &cuda::temporal_conv_backward_workspace);
#if defined(ASMA_CUDA_EMULATED)
    module.def("reseed", &cuda::emulation::reseed, py::arg("seed"));
    module.def("take_traffic", [] {
        const cuda::emulation::Traffic taken = cuda::emulation::take_traffic();
        return py::make_tuple(taken.loaded, taken.stored);
    });
#endif
}
