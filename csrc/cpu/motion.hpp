#pragma once

#include <cstdint>

#include "cpu/gather_view.hpp"

namespace asma::cpu {

inline constexpr std::int64_t motion_lanes = 8;  // partial sums of a frame: part of the contract

// x by strides. frame_out (N, T') and joint_out (N, V'), row-major; null where not wanted. Work items are pieces of
// clips: n, piece row-major, where `pieces` cuts a clip's frames or, without frame_out, its joints; 1 for both.
template <class Real> struct MotionParams {
    const Real* x;
    float *frame_out, *joint_out;
    std::int64_t x_clip, x_channel, x_frame, x_joint, x_body;  // strides of x
    std::int64_t bodies, frames, joints, channels;             // M, T', V', C
    std::int64_t pieces, piece;                                // of a clip; frames or joints of each
    bool replicate;                                            // frame_motion: the last frame's score
    ViewMaps<Real> view;
    // Working memory of one thread, aligned to 64 bytes; V' is rounded up to motion_lanes, and all of a clip's frames
    // or joints are those of a piece where there are several.
    Real* rows;            // 2 · C · V'
    double* frame_totals;  // T' · motion_lanes
    double* joint_totals;  // V'; without a transform C · V'
};

}  // namespace asma::cpu
