#pragma once

#include <cstdint>

#include "cpu/gather_view.hpp"

namespace asma::cpu {

// x by strides. frame_motion: out (N, T'), work items are output frames n, t. joint_motion: out (N, V'), work items are
// output joints n, v. Both row-major.
template <class Real> struct MotionParams {
    const Real* x;
    float* out;
    std::int64_t x_clip, x_channel, x_frame, x_joint, x_body;  // strides of x
    std::int64_t bodies, frames, joints, channels;             // M, T', V', C
    bool replicate;                                            // frame_motion: the last frame's score
    ViewMaps<Real> view;
};

}  // namespace asma::cpu
