#pragma once

#include <cstdint>

#include "core/view_maps.hpp"

namespace asma::cpu {

// out (N, M, T', V', C) dense; x by strides. Work items are output frames: n, m, t row-major.
template <class Real> struct GatherViewParams {
    const Real* x;
    Real* out;
    std::int64_t x_clip, x_channel, x_frame, x_joint, x_body;  // strides of x
    std::int64_t bodies, frames, joints, channels;             // M, T', V', C
    ViewMaps<Real> view;
};

// x_grad (N, M, T, V, C) dense and zeroed; g by strides, of the shape of gather_view's out. Work items are clips.
template <class Real> struct GatherViewBackwardParams {
    const Real* g;
    Real* x_grad;
    std::int64_t g_clip, g_channel, g_frame, g_joint, g_body;
    std::int64_t bodies, frames, joints, channels;  // of g
    std::int64_t x_frames, x_joints;                // T, V
    ViewMaps<Real> view;
};

}  // namespace asma::cpu
