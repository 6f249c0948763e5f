// Layers of a block for one frame, as a stream runs them: a frame of every body at a time, all offsets known before.
#pragma once

#include <cstdint>

#include "cpu/graph_conv.hpp"

namespace asma::cpu {

// A joint's numbers are padded to `width`, whole vectors of 16 bytes that end in zeros, in all maps and rings.

// x (bodies, V, width) → out = relu(graph convolution) (bodies, V, out_width), and once more in `copy` (null: not).
// Work items are slabs of columns; the first gathers for the others of the frame.
template <class Real> struct FrameGraphParams {
    const Real* x;
    Real* out;
    Real* copy;
    const Real* packed;      // as GraphConvParams
    const Real* joint_bias;  // (V, out_width)
    GraphConvEntries<Real> into;
    std::int64_t bodies, joints, channels, width, parts, out_channels, out_width;
    Real* gathered;      // (bodies, V, K, width)
    Real* packed_frame;  // (V, packed_columns(width))
};

// out (rows, out_width) from one frame a tap: the first tap's at source (rows, width), the next source_tap further.
// Work items are slabs of columns, group by group; of channels each by itself (by_tap) slabs of all columns.
template <class Real> struct FrameConvParams {
    const Real* source;
    Real* out;
    const Real* residual;  // as out: added; or null
    const Real* packed;
    const Real* by_tap;  // (taps, columns) where each channel is a group, in place of packed; or null
    const Real* bias;    // (groups·columns)
    bool relu;
    std::int64_t source_tap, packed_group;
    std::int64_t rows, width, out_width, groups, channels, columns, taps;  // channels and columns of a group
};

}  // namespace asma::cpu
