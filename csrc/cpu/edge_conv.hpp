// Graph convolution of few channels with a graph that stays: what csrc/cpu/edge_conv.cpp reads.
#pragma once

#include <cstdint>

namespace asma::cpu {

// out[t, w, o] = relu(bias[w, o] + Σ_e Σ_c x[t, others[e], c] · weight[e, c, o]) over the edges e that end in w: the
// adjacency's entry times the channels' weights, multiplied once when the network was made.
template <class Real> struct EdgeConvParams {
    const Real* x;  // (rows, frames, joints, channels), dense
    std::int64_t rows, frames, joints, channels, columns;
    const std::int32_t* starts;  // (joints + 1): where a joint's edges begin
    const std::int32_t* others;  // of each edge
    const Real* weight;          // (edges, channels, packed_columns(columns)), zeros behind the columns
    const Real* bias;            // (joints, packed_columns(columns))
    Real* out;                   // (rows, frames, joints, columns), dense
};

inline constexpr std::int64_t edge_conv_frames = 8;  // of an item, which is one of rows × ⌈frames / this⌉

}  // namespace asma::cpu
