#include "cpu/moments.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "bindings/bindings.hpp"
#include "bindings/view_maps.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

// x: logical (N, C, T, V, M); first (N, V, C) and second (N, V, C, C), float64 and dense.
void moments(const Array& x, const std::optional<Array>& frames, const Array& first, const Array& second) {
    if (x.rank != 5) throw py::value_error("x must be a clip of rank 5");
    if (frames && (frames->rank != 2 || (frames->size(0) != 1 && frames->size(0) != x.size(0))))
        throw py::value_error("view.frames must have shape (N, T') or (1, T')");
    const std::int64_t clips = x.size(0), channels = x.size(1), joints = x.size(3);
    check_sizes(first, {clips, joints, channels}, "first");
    check_sizes(second, {clips, joints, channels, channels}, "second");
    if (!first.dense({0, 1, 2})) throw py::value_error("first must be dense");
    if (!second.dense({0, 1, 2, 3})) throw py::value_error("second must be dense");
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::MomentsParams<Real> p{};
        p.x = x.data<const Real>("x");
        p.x_clip = x.stride(0), p.x_channel = x.stride(1), p.x_frame = x.stride(2), p.x_joint = x.stride(3);
        p.x_body = x.stride(4);
        p.channels = channels, p.x_frames = x.size(2), p.joints = joints, p.bodies = x.size(4);
        p.first = first.data<double>("first"), p.second = second.data<double>("second");
        const ViewMaps<Real> view = view_maps<Real>(frames, std::nullopt, std::nullopt, x.size(2), joints);
        p.frames = view.frames, p.frames_stride = view.frames_stride, p.kept = frames ? frames->size(1) : 0;
        if (p.kept > std::numeric_limits<std::int32_t>::max())
            throw py::value_error("view.frames must have fewer than 2^31 columns, got " + std::to_string(p.kept));
        if (first.count() == 0) return;
        const std::int64_t sums = checked_sum(checked_product({channels + 2, joints, channels}), channels);
        constexpr std::int64_t numbers_a_piece = 1 << 15;
        const std::int64_t clip = std::max<std::int64_t>(1, x.count() / clips);
        parallel_for(clips, std::max<std::int64_t>(1, numbers_a_piece / clip),
                     [&](std::int64_t begin, std::int64_t end) {
                         Scratch<std::int32_t> reads(p.x_frames);
                         Scratch<double> memory(sums);
                         cpu::MomentsParams<Real> piece = p;
                         piece.reads = reads.data(), piece.sums = memory.data();
                         cpu::kernels<Real>().moments(piece, begin, end);
                     });
    });
}

}  // namespace

void bind_moments(py::module_& module) {
    module.def("moments", &moments, py::arg("x"), py::arg("frames"), py::arg("first"), py::arg("second"),
               release_gil());
}

}  // namespace asma::bindings
