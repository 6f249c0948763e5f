#pragma once

#include <cstdint>

#include "cpu/packing.hpp"
#include "cpu/winograd.hpp"

namespace asma::cpu {

// Which source frame output frame t reads for tap j: (t·rise + j·step + offset) / fall, where that is a whole number
// and inside the map; a tap elsewhere is skipped. A convolution has rise = stride, fall = 1; its input gradient, which
// reads the output's gradient, has rise = 1, step = −dilation, fall = stride.
struct FrameMap {
    std::int64_t rise, step, offset, fall;
};

// Sizes of one group: `channels` are summed over, `columns` come out.
struct TemporalConvSizes {
    std::int64_t rows, source_frames, frames, joints;  // B, T, T', V
    std::int64_t groups, channels, columns, taps;
};

// How the source is read: as relu(scale·x + shift) by channel; as it is where scale is null. Frames outside are zero
// all the same.
template <class Real> struct ConvLoad {
    const Real* scale;
    const Real* shift;  // (groups·channels)
};

// What becomes of the results while they are in the cache, each where it is not null, in this order:
template <class Real> struct ConvStore {
    const Real* residual;  // as out: added
    bool relu;
    // out is the gradient of relu(gate_scale·gate + gate_shift), and becomes that of gate.
    const Real* gate;        // as out
    const Real* gate_scale;  // (groups·columns)
    const Real* gate_shift;
    // (items, 2, columns): each item's Σ out and Σ out²; with a gate, its gradients of gate_scale and gate_shift.
    double* sums;
};

// weight, any strides → the packed weights of each group (cpu/micro_kernel.hpp), groups packed_group apart; by
// Winograd the five points of a group follow each other; nested, its twenty, of one tap each, and the taps themselves.
// Work items: group · slabs + slab.
template <class Real> struct TemporalConvPackParams {
    const Real* weight;
    Real* packed;
    TemporalConvSizes sizes;
    std::int64_t group_stride, column_stride, channel_stride, tap_stride;  // of weight
    std::int64_t packed_group;
};

// x (B, T, V, groups·channels) and out (B, T', V, groups·columns) dense, bias (groups·columns) or null. Work items:
// (row · frame blocks + block) · groups + group; nested each takes that block of `together` rows, the last perhaps of
// fewer: (row / together · frame blocks + block) · groups + group.
template <class Real> struct TemporalConvParams {
    const Real* x;
    const Real* packed;
    const Real* bias;
    Real* out;
    TemporalConvSizes sizes;
    FrameMap map;
    std::int64_t packed_group, block_frames;  // by Winograd block_frames is a multiple of winograd_tile
    NestedCut cut;                            // nested alone
    std::int64_t together;                    // nested alone: at most nested_most_together
    ConvLoad<Real> load;
    ConvStore<Real> store;
    // Of the thread. Direct, where load.scale: the source frames of a block (frames, V, channels). By Winograd: points
    // of the positions (5, positions, V, channels), then of the tiles (5, tiles, V, columns). Nested: of the inputs of
    // the pairs of all rows (4, pairs, V, channels), of their outputs (4, pairs, V, columns) and of their tiles
    // (5, pairs, 2, V, columns), and the frames that the tails read (together, tail + taps, V, channels).
    Real* workspace;
};

// g is the gradient of out. partial (parts, groups, taps, channels, columns) is overwritten; part i sums over the rows
// [i·B/parts, (i+1)·B/parts). Work items: (part · groups + group) · slabs + slab. `map` is the convolution's.
//
// By Winograd partial is (parts, groups, 5, triples, channels, columns), and an item is
// (part · groups + group) · 5 + point. Nested it is (parts, groups, 20 + taps, channels, columns), an item
// (part · groups + group) · 6 + point, of which the sixth sums the tail's taps.
template <class Real> struct TemporalConvWeightParams {
    const Real* x;
    const Real* g;
    Real* partial;
    TemporalConvSizes sizes;
    FrameMap map;
    std::int64_t parts, block_frames;
    ConvLoad<Real> load;
    std::int64_t together;  // by Winograd: rows whose tiles are in work at a time
    // Of the thread. Direct, where load.scale: a row of the source (T, V, channels). By Winograd: one point of the
    // positions (together, positions, V, channels), then of the tiles (together, tiles, V, columns). Nested: of the
    // pairs, (4, together, pairs, V, channels) and (4, together, pairs, V, columns); for the tail its source
    // (tail + taps, V, channels).
    Real* workspace;
    NestedCut cut;  // nested alone
};

// weight_grad (groups·columns, channels, taps), dense, from the partial sums. Work items: group · channels + channel.
template <class Real> struct TemporalConvMergeParams {
    const Real* partial;
    Real* weight_grad;
    TemporalConvSizes sizes;
    std::int64_t parts;
    NestedCut cut;  // nested alone
};

// partial (parts, columns): part i sums the rows [i·rows/parts, (i+1)·rows/parts) of g (rows, columns), dense. Work
// items: parts.
template <class Real> struct TemporalConvBiasParams {
    const Real* g;
    double* partial;
    std::int64_t rows, columns, parts;
};

// out = ĝ, the gradient of y (rows, columns) where its column sums have gradients of their own (cpu/statistics.hpp).
// Work items: blocks of sums_grad_rows rows.
inline constexpr std::int64_t sums_grad_rows = 512;

template <class Real> struct AddSumsGradParams {
    const Real* g;
    const Real* y;
    const double* sums_grad;  // (2, columns)
    Real* out;
    std::int64_t rows, columns;
};

}  // namespace asma::cpu
