// A convolution along time as both directions run it: the forward pass, and, for each residue of the frames by the
// stride, the gradient of what it read.
#pragma once

#include <algorithm>

#include "cuda/arrays.hpp"

namespace asma::cuda {

// out[b, first + i·step, v, o] = bias[o] + Σ_m Σ_c w[g, o, c, m] · x[b, i·x_step + x_first + m·x_dilation, v, c] for
// i < steps; frames outside x are zero. Maps are dense as (B, T, V, C); channels of a group g are neighbours.
template <class T> struct Convolution {
    const T* x;
    const T* weight;
    const T* bias;  // or null
    T* out;
    std::int64_t rows, frames, out_frames;                         // frames: of x
    std::int64_t steps, first, step, x_first, x_step, x_dilation;  // x_dilation is not negative
    std::int64_t w_group, w_out, w_in, w_tap;                      // strides
    int joints, groups, ins, outs, taps;                           // ins, outs: channels of a group
};

// What the kernels read without looking.
inline void check_convolution(const Array& x, const Array& out, const Array& weight, std::int64_t groups) {
    if (x.rank != 4 || out.rank != 4 || weight.rank != 3)
        throw std::invalid_argument("maps must have shape (B, C, T, V), weight (C_out, C_in / groups, k)");
    for (const Array* map : {&x, &out})
        if (!map->dense({0, 2, 3, 1})) throw std::invalid_argument("maps must be dense as (B, T, V, C)");
    check_sizes(x, {out.size(0), weight.size(1) * groups, x.size(2), out.size(3)}, "x");
    check_sizes(out, {x.size(0), weight.size(0), out.size(2), x.size(3)}, "out");
    if (groups < 1 || weight.size(0) % groups) throw std::invalid_argument("groups must divide the channels");
    check_places(std::max(x.size(1), out.size(1)) * weight.size(2), "weights have more numbers a channel");
}

template <class T> void convolve(const char* op, Convolution<T> convolution, bool use_tf32, std::uintptr_t stream);

}  // namespace asma::cuda
