#include "cpu/motion.hpp"

#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "bindings/view_maps.hpp"
#include "core/parallel.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

using Map = std::optional<Array>;

// x: logical (N, C, T, V, M), by strides. out: (N, T') or (N, V'), dense.
template <class Real> cpu::MotionParams<Real> motion_params(const Array& x, const Map& frames, const Map& joints,
                                                            const Map& transform, const Array& out, bool by_frame) {
    if (x.rank != 5) throw py::value_error("x must have shape (N, C, T, V, M)");
    cpu::MotionParams<Real> p{};
    p.x = x.data<const Real>("x");
    p.out = out.data<float>("out");
    p.x_clip = x.stride(0), p.x_channel = x.stride(1), p.x_frame = x.stride(2), p.x_joint = x.stride(3);
    p.x_body = x.stride(4);
    p.channels = x.size(1), p.bodies = x.size(4);
    p.frames = frames ? frames->size(1) : x.size(2);
    p.joints = joints ? joints->size(1) : x.size(3);
    check_sizes(out, {x.size(0), by_frame ? p.frames : p.joints}, "out");
    if (!out.dense({0, 1})) throw py::value_error("out must be dense");
    p.view = view_maps<Real>(frames, joints, transform, x.size(2), x.size(3));
    return p;
}

void frame_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                  const Array& out) {
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        auto p = motion_params<Real>(x, frames, joints, transform, out, true);
        p.replicate = replicate;
        parallel_for(out.count(), 64,
                     [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().frame_motion(p, begin, end); });
    });
}

void joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out) {
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        const auto p = motion_params<Real>(x, frames, joints, transform, out, false);
        parallel_for(out.count(), 64,
                     [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().joint_motion(p, begin, end); });
    });
}

}  // namespace

void bind_motion(py::module_& module) {
    module.def("frame_motion", &frame_motion, py::arg("x"), py::arg("frames"), py::arg("joints"), py::arg("transform"),
               py::arg("replicate"), py::arg("out"), release_gil());
    module.def("joint_motion", &joint_motion, py::arg("x"), py::arg("frames"), py::arg("joints"), py::arg("transform"),
               py::arg("out"), release_gil());
}

}  // namespace asma::bindings
