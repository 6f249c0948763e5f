#pragma once

#include <cstdint>

#include "cpu/dropout.hpp"

namespace asma::cpu {

// Entries of a table of `channels` values, repeated from its start for the widest vector that begins at the last.
static constexpr std::int64_t channel_table(std::int64_t channels) {
    return channels + 16;
}

// What the last pass of a block and its gradient share. Maps are dense, channels last: N samples of `size` elements.
// Work items are pieces of samples, as dropout's. Scales and shifts are channel tables; those of the normalised map
// hold dropout's scale.
template <class Real> struct BlockOutputParams {
    const Real *x, *residual;  // residual: may be null
    Real* out;
    const Real *scale, *shift, *residual_scale, *residual_shift;  // the last two: may be null
    const std::int64_t* ids;                                      // (N,), null without dropout
    std::int64_t size, pieces, channels;
    std::uint64_t seed;
    std::uint32_t purpose, cut;
};

// Work items are parts: runs of `part_pieces` pieces, each with its sums. The sums of x are of x − pivot.
template <class Real> struct BlockOutputBackwardParams {
    const Real *g, *out, *x, *residual;  // x and residual: null where no gradient asks for them
    Real *x_grad, *residual_grad;        // may be null
    const Real *scale, *residual_scale;  // channel tables; the second may be null
    const Real *pivot, *residual_pivot;  // channel tables of x and residual
    const std::int64_t* ids;
    std::int64_t size, pieces, all_pieces, part_pieces, channels;
    std::uint64_t seed;
    std::uint32_t purpose, cut;
    bool sums, residual_sums;  // whether gradients of scale and shift, of the residual's, are wanted
    // (parts, 4, channel_table) of the gradient after dropout: Σ g, Σ g·x, of the residual's: Σ g, Σ g·residual.
    // Entries a multiple of `channels` apart belong to one channel.
    double* partial;
};

}  // namespace asma::cpu
