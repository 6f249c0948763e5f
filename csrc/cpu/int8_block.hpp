// A whole ST-GCN block in int8: activations of 0..127 (uint8), weights of −127..127, sums in int32, exact on every
// instruction set. What follows a sum is one rule everywhere, without fused multiply-adds:
//
//   number = clamp(rint(float(sum) · scale[column] + float(residual) · residual_step[column]), 0, 127)
//
// A map is (rows, V, T, C), C padded to fours: the frames of one joint follow each other, so that gathering joints is a
// pass over contiguous bytes, a tap is a step of one frame, and one joint's block needs nothing but its neighbours'
// input: its sums, hidden maps and shortcut stay in the cache.
#pragma once

#include <cstdint>

namespace asma::cpu {

inline constexpr int int8_most = 127, int8_first_most = (1 << 14) - 1;  // codes; of the first block's gathering
inline constexpr int int8_first_bits = 7, int8_first_unit = 1 << int8_first_bits;
inline constexpr std::int64_t int8_quad = 4;    // channels whose products one lane sums
inline constexpr std::int64_t int8_panel = 16;  // columns
inline constexpr std::int64_t int8_slack = 64;  // bytes behind a map that are read, behind a buffer also written

static constexpr std::int64_t int8_padded(std::int64_t channels) {
    return (channels + int8_quad - 1) / int8_quad * int8_quad;
}

// Bytes from one part's gathered codes to the next's: vectors of them end in the slack.
static constexpr std::int64_t int8_part(std::int64_t frames, std::int64_t channels) {
    return (frames * channels + int8_slack - 1) / int8_slack * int8_slack;
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
//   z[t, w, k, c] = clamp(((Σ_v A[k, v, w] · x[t, v, c]) · scale[w, k] + 2^14 >> 15) + zero[w, k], 0, 127)
//
// with sums in int16: the loader saw to it that they fit. The first block reads numbers, whose rounding would be the
// largest error of all: it gathers floats, z = clamp(rint(zero + Σ A · x), 0, 16383), terms in the order of joints, and
// multiplies both halves of z: sum = 128 · (bias + Σ W · (z >> 7)) + Σ W · (z & 127).
struct Int8BlockParams {
    const std::uint8_t* x;
    std::uint8_t* out;
    std::int64_t x_joint, out_joint;  // bytes from one joint's frames to the next's
    std::int64_t joints, frames, out_frames, parts;
    std::int64_t block;                // frames that are gathered at a time
    const std::int32_t* entry_starts;  // (V·K + 1): the adjacency's entries by target and part
    const std::int32_t* entry_sources;
    const std::int16_t* entry_values;
    const std::int16_t *gather_scale, *gather_zero;  // (V·K)
    const float* first_x;                            // the first block: in place of x and the entries' values
    const float* first_values;
    Int8Layer graph;  // its taps are the parts; of the first block the parts' upper halves and the lower ones
    Int8Layer convs[2];
    std::int64_t conv_count;
    bool adds_input;             // the residual is x; of as many frames and channels
    const Int8Layer* shortcut;   // else of one tap, or null
    const float* residual_step;  // whole panels of columns
    // Of the thread: (K or 2·K, part), (left + T + right, O), (T', O), (T', O), each with slack.
    std::uint8_t *gathered, *hidden, *between, *beside;
};

// clips (rows, T, V, C) → x (rows, V, T, C padded) = scale · clip + shift. Up to three numbers behind the clips are
// read. Work items: row · T + frame.
struct Int8InputParams {
    const float* clips;
    const float *scale, *shift;  // (V, C padded), zero in the padding
    float* x;
    std::int64_t joints, frames, channels, x_joint;
};

// sums (channels) = Σ over places of x (places, channels), channels padded. Work items: channels / 4.
struct Int8SumParams {
    const std::uint8_t* x;
    std::int64_t places, channels;
    std::int64_t* sums;
};

struct Int8Kernels {
    void (*input)(const Int8InputParams&, std::int64_t begin, std::int64_t end);
    void (*block)(const Int8BlockParams&, std::int64_t begin, std::int64_t end);
    void (*sum)(const Int8SumParams&, std::int64_t begin, std::int64_t end);
};

}  // namespace asma::cpu
