#include "cpu/motion.hpp"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.hpp"
#include "bindings/view_maps.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

using Map = std::optional<Array>;

constexpr std::int64_t frames_together = 64, joints_together = 64, items_together = 8;

std::int64_t pieces_of(std::int64_t count, std::int64_t piece) {
    return count > 0 ? (count + piece - 1) / piece : 1;
}

// x: logical (N, C, T, V, M), by strides. frame_out: (N, T') and joint_out: (N, V'), dense; at least one of them.
void motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
            const Map& frame_out, const Map& joint_out) {
    if (x.rank != 5) throw py::value_error("x must have shape (N, C, T, V, M)");
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::MotionParams<Real> p{};
        p.x = x.data<const Real>("x");
        p.x_clip = x.stride(0), p.x_channel = x.stride(1), p.x_frame = x.stride(2), p.x_joint = x.stride(3);
        p.x_body = x.stride(4);
        p.channels = x.size(1), p.bodies = x.size(4);
        p.frames = frames ? frames->size(1) : x.size(2);
        p.joints = joints ? joints->size(1) : x.size(3);
        p.replicate = replicate;
        const auto output = [&](const Map& out, std::int64_t columns, const char* what) -> float* {
            if (!out) return nullptr;
            check_sizes(*out, {x.size(0), columns}, what);
            if (!out->dense({0, 1})) throw py::value_error(std::string(what) + " must be dense");
            return out->data<float>(what);
        };
        p.frame_out = output(frame_out, p.frames, "out");
        p.joint_out = output(joint_out, p.joints, "out");
        p.view = view_maps<Real>(frames, joints, transform, x.size(2), x.size(3));
        p.piece = !p.frame_out ? joints_together : p.joint_out ? std::max<std::int64_t>(p.frames, 1) : frames_together;
        p.pieces = pieces_of(p.frame_out ? p.frames : p.joints, p.piece);
        const std::int64_t lanes = cpu::motion_lanes;
        const std::int64_t columns = pieces_of(p.frame_out ? p.joints : std::min(p.joints, p.piece), lanes) * lanes;
        const std::int64_t rows = checked_product({2, p.channels, columns});
        // One step more: the last frame repeats its predecessor's, which may lie in another piece.
        const std::int64_t sums = p.view.dims ? columns : checked_product({columns, p.channels});  // of a body's joints
        const std::int64_t steps = p.frame_out ? checked_product({p.piece + 1, lanes}) : 0;
        parallel_for(x.size(0) * p.pieces, items_together, [&](std::int64_t begin, std::int64_t end) {
            Scratch<Real> memory(rows);
            Scratch<double> frame_totals(steps), joint_totals(sums);
            cpu::MotionParams<Real> own = p;
            own.rows = memory.data(), own.frame_totals = frame_totals.data(), own.joint_totals = joint_totals.data();
            cpu::kernels<Real>().motion(own, begin, end);
        });
    });
}

void frame_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                  const Array& out) {
    motion(x, frames, joints, transform, replicate, out, std::nullopt);
}

void joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out) {
    motion(x, frames, joints, transform, false, std::nullopt, out);
}

void frame_and_joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                            const Array& frame_out, const Array& joint_out) {
    motion(x, frames, joints, transform, replicate, frame_out, joint_out);
}

}  // namespace

void bind_motion(py::module_& module) {
    module.def("frame_motion", &frame_motion, py::arg("x"), py::arg("frames"), py::arg("joints"), py::arg("transform"),
               py::arg("replicate"), py::arg("out"), release_gil());
    module.def("joint_motion", &joint_motion, py::arg("x"), py::arg("frames"), py::arg("joints"), py::arg("transform"),
               py::arg("out"), release_gil());
    module.def("frame_and_joint_motion", &frame_and_joint_motion, py::arg("x"), py::arg("frames"), py::arg("joints"),
               py::arg("transform"), py::arg("replicate"), py::arg("frame_out"), py::arg("joint_out"), release_gil());
}

}  // namespace asma::bindings
