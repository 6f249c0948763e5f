#pragma once

#include <cstdint>

namespace asma::cpu {

// Work items are clips. first (N, V, C) and second (N, V, C, C) dense.
template <class Real> struct MomentsParams {
    const Real* x;
    std::int64_t x_clip, x_channel, x_frame, x_joint, x_body;  // strides
    const std::int32_t* frames;                                // (N, T'); null: all
    std::int64_t frames_stride, kept;                          // stride 0 where one row serves every clip; T'
    std::int64_t bodies, x_frames, joints, channels;
    double* first;
    double* second;
    std::int32_t* reads;  // (T): working memory, as is the next
    // (C + 2)·V·C + C: a frame's numbers and C beyond it; the sums of each number, then of its products with itself and
    // with the C − 1 after it.
    double* sums;
};

}  // namespace asma::cpu
