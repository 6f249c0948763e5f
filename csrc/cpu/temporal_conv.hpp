#pragma once

#include <cstdint>

#include "cpu/packing.hpp"

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

// weight, any strides → the packed weights of each group (cpu/micro_kernel.hpp), groups packed_group apart. Work items:
// group · slabs + slab.
template <class Real> struct TemporalConvPackParams {
    const Real* weight;
    Real* packed;
    TemporalConvSizes sizes;
    std::int64_t group_stride, column_stride, channel_stride, tap_stride;  // of weight
    std::int64_t packed_group;
};

// x (B, T, V, groups·channels) and out (B, T', V, groups·columns) dense, bias (groups·columns) or null. Work items:
// ((row · frame blocks + block) · groups + group) · slabs + slab.
template <class Real> struct TemporalConvParams {
    const Real* x;
    const Real* packed;
    const Real* bias;
    Real* out;
    TemporalConvSizes sizes;
    FrameMap map;
    std::int64_t packed_group, block_frames;
};

// g is the gradient of out. partial (parts, groups, taps, channels, columns) is overwritten; part i sums over the rows
// [i·B/parts, (i+1)·B/parts). Work items: (part · groups + group) · slabs + slab. `map` is the convolution's.
template <class Real> struct TemporalConvWeightParams {
    const Real* x;
    const Real* g;
    Real* partial;
    TemporalConvSizes sizes;
    FrameMap map;
    std::int64_t parts, block_frames;
};

// weight_grad (groups·columns, channels, taps), dense, from the partial sums. Work items: group · channels + channel.
template <class Real> struct TemporalConvMergeParams {
    const Real* partial;
    Real* weight_grad;
    TemporalConvSizes sizes;
    std::int64_t parts;
};

// partial (parts, columns): part i sums the rows [i·rows/parts, (i+1)·rows/parts) of g (rows, columns), dense. Work
// items: parts.
template <class Real> struct TemporalConvBiasParams {
    const Real* g;
    double* partial;
    std::int64_t rows, columns, parts;
};

}  // namespace asma::cpu
