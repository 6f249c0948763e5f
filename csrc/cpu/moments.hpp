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
    double* sums;         // moments_sums(V, C)
};

// A frame of V·C numbers and C beyond it; sums of each number, and of its products with itself and the C − 1 after it.
constexpr std::int64_t moments_sums(std::int64_t joints, std::int64_t channels) {
    return joints * channels + channels + (channels + 1) * joints * channels;
}

}  // namespace asma::cpu
