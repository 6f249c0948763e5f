// A whole ST-GCN block in int8: activations of 0..127 (uint8), weights of −127..127, sums in int32, exact on every
// instruction set. What follows a sum is one rule everywhere, without fused multiply-adds:
//
//   number = clamp(rint(float(sum) · scale[column] + float(residual) · residual_step), 0, 127)
//
// A map is (rows, V, T, C), C padded to fours: the frames of one joint follow each other, so that gathering joints is a
// pass over contiguous bytes, a tap is a step of one frame, and one joint's block needs nothing but its neighbours'
// input: its sums, hidden maps and shortcut stay in the cache.
#pragma once

#include <cstdint>

namespace asma::cpu {

inline constexpr std::int64_t int8_quad = 4;    // channels whose products one lane sums
inline constexpr std::int64_t int8_panel = 16;  // columns
inline constexpr std::int64_t int8_slack =
    64;  // bytes behind a map or a buffer that may be read, or in a buffer written

static constexpr std::int64_t int8_padded(std::int64_t channels) {
    return (channels + int8_quad - 1) / int8_quad * int8_quad;
}

// A product of channels and columns by taps. Packed: panels of columns, each [tap][quad][column][4], zero where there
// is no column or channel; depthwise [tap][column], whole panels of columns.
struct Int8Layer {
    const std::int8_t* packed;
    const std::int32_t* bias;  // whole panels of columns; of a graph convolution for every joint
    const float* scale;        // whole panels of columns
    std::int64_t channels, columns, taps, stride, left, right;  // channels and columns padded
    bool depthwise;
};

// x (rows, V, T, C) → out (rows, V, T', O). Work items: row · V + joint.
//
// z[t, w, k, c] = clamp(((start[w, k] + Σ_v A[k, v, w] · x[t, v, c]) · scale[w, k] + 2^14) >> 15) + zero[w, k], 0,
// 127), its sums in int16: the loader saw to it that they fit.
struct Int8BlockParams {
    const std::uint8_t* x;
    std::uint8_t* out;
    std::int64_t x_joint, out_joint;  // bytes from one joint's frames to the next's
    std::int64_t joints, frames, out_frames, parts;
    std::int64_t block;                // frames that are gathered at a time
    const std::int32_t* entry_starts;  // (V·K + 1): the adjacency's entries by target and part
    const std::int32_t* entry_sources;
    const std::int16_t* entry_values;
    const std::int16_t *gather_start, *gather_scale, *gather_zero;  // (V·K)
    Int8Layer graph;                                                // its taps are the parts
    Int8Layer convs[2];
    std::int64_t conv_count;
    bool adds_input;            // the residual is x; of as many frames and channels
    const Int8Layer* shortcut;  // else of one tap, or null
    float residual_step;
    // Of the thread: (K, block, C), (left + T + right, O), (T', O), (T', O), each with slack.
    std::uint8_t *gathered, *hidden, *between, *beside;
};

// clips (rows, T, V, C) → x (rows, V, T, C padded) = clamp(rint(scale · clip + shift), 0, 127); numbers in the padding
// are anything. Work items: row · T + frame.
struct Int8InputParams {
    const float* clips;
    const float *scale, *shift;  // (V, C)
    std::uint8_t* x;
    std::int64_t joints, frames, channels, x_joint;
    std::uint8_t* codes;  // of the thread: (V·C), with slack
};

struct Int8Kernels {
    void (*input)(const Int8InputParams&, std::int64_t begin, std::int64_t end);
    void (*block)(const Int8BlockParams&, std::int64_t begin, std::int64_t end);
};

}  // namespace asma::cpu
