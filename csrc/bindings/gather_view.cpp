#include "cpu/gather_view.hpp"

#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "bindings/view_maps.hpp"
#include "core/parallel.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

using Map = std::optional<Array>;

// x, out: logical (N, C, T, V, M); out dense as (N, M, T', V', C).
void gather_view(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out) {
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::GatherViewParams<Real> p{};
        p.x = x.data<const Real>("x");
        p.out = out.data<Real>("out");
        p.x_clip = x.stride(0), p.x_channel = x.stride(1), p.x_frame = x.stride(2), p.x_joint = x.stride(3);
        p.x_body = x.stride(4);
        p.channels = out.size(1), p.frames = out.size(2), p.joints = out.size(3), p.bodies = out.size(4);
        p.view = view_maps<Real>(frames, joints, transform, x.size(2), x.size(3));
        check_sizes(out,
                    {x.size(0), x.size(1), frames ? frames->size(1) : x.size(2), joints ? joints->size(1) : x.size(3),
                     x.size(4)},
                    "out");
        if (out.count() == 0) return;
        parallel_for(out.size(0) * p.bodies * p.frames, 64,
                     [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().gather_view(p, begin, end); });
    });
}

// g: logical (N, C, T', V', M); x_grad: logical (N, C, T, V, M), dense as (N, M, T, V, C) and zeroed.
void gather_view_backward(const Array& g, const Map& frames, const Map& joints, const Map& transform,
                          const Array& x_grad) {
    with_real(g, "g", [&](auto zero) {
        using Real = decltype(zero);
        cpu::GatherViewBackwardParams<Real> p{};
        p.g = g.data<const Real>("g");
        p.x_grad = x_grad.data<Real>("x_grad");
        p.g_clip = g.stride(0), p.g_channel = g.stride(1), p.g_frame = g.stride(2), p.g_joint = g.stride(3);
        p.g_body = g.stride(4);
        p.channels = g.size(1), p.frames = g.size(2), p.joints = g.size(3), p.bodies = g.size(4);
        p.x_frames = x_grad.size(2), p.x_joints = x_grad.size(3);
        p.view = view_maps<Real>(frames, joints, transform, p.x_frames, p.x_joints);
        check_sizes(g,
                    {x_grad.size(0), x_grad.size(1), frames ? frames->size(1) : p.x_frames,
                     joints ? joints->size(1) : p.x_joints, x_grad.size(4)},
                    "g");
        if (g.count() == 0) return;
        parallel_for(g.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
            cpu::kernels<Real>().gather_view_backward(p, begin, end);
        });
    });
}

}  // namespace

void bind_gather_view(py::module_& module) {
    module.def("gather_view", &gather_view, py::arg("x"), py::arg("frames"), py::arg("joints"), py::arg("transform"),
               py::arg("out"), release_gil());
    module.def("gather_view_backward", &gather_view_backward, py::arg("g"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("x_grad"), release_gil());
}

}  // namespace asma::bindings
