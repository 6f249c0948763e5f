#pragma once

#include <cstdint>

#include "cpu/gather_view.hpp"

namespace asma::cpu {

// The numbers of one joint are padded to whole vectors of 16 bytes.
template <class Real> inline constexpr std::int64_t joint_padding = 16 / static_cast<std::int64_t>(sizeof(Real));

// A vector of partial sums, as wide as any instruction set's.
template <class Real> inline constexpr std::int64_t sum_lanes = 64 / static_cast<std::int64_t>(sizeof(Real));

// The non-zero entries of the adjacency of a row's joints, in lists: list (joint · K + k) names the other joints.
template <class Real> struct GraphConvEntries {
    std::int32_t* starts;  // (V'·K + 1)
    std::int32_t* others;  // (K·V'·V')
    Real* values;
};

// Of the backward pass: pairs of a source and a target × part (w · K + k), by source. Those with an entry come first,
// then those that only the pattern admits.
template <class Real> struct GraphConvLinks {
    std::int32_t* starts;        // (V' + 1)
    std::int32_t* other_starts;  // (V' + 1)
    std::int32_t* targets;       // (K·V'·V')
    Real* values;                // of the entries
};

// The working memory of one thread. `block` frames are in work at a time.
template <class Real> struct GraphConvWorkspace {
    Real* read;          // (block, V', width): x̂
    Real* gathered;      // (block, V', K, width): z, joints gathered along the entries of the adjacency
    Real* entry_sums;    // (V', K): Σ_v A[k, v, w]
    Real* bias_rows;     // (V', C_out)
    Real* columns;       // (V', padding + 1, padding): of the scaled transform, and the shift
    Real* packed_frame;  // as weights: a frame of x̂, backward also of gz
    double* sums;        // (2, C_out): Σ out and Σ out² of the items, to which they are added; null: not wanted
    GraphConvEntries<Real> into;  // by target
    std::int32_t* first_joints;   // (V_graph): of those that play a node, the first, or −1
    std::int32_t* next_joints;    // (V'): the next that plays the same, or −1
    // Of the backward pass alone.
    GraphConvEntries<Real> from;  // by source
    GraphConvLinks<Real> links;
    Real* unscaled;        // (block, V', width): x̂ before scale and shift
    Real* gathered_grad;   // (block, V', K, width)
    Real* read_grad;       // (block, V', width)
    Real* summed_grad;     // (block, V', C_out): g and what the sums' gradients add
    Real* g_sums;          // (V', C_out): Σ_t g
    Real* bias_dots;       // (V', K): Σ_o bias[k, o] · Σ_t g[t, w, o]
    Real* adjacency_sums;  // (K, V', V', sum_lanes); with a pattern (links, sum_lanes)
    Real* scale_sums;      // (V', width)
    Real* shift_sums;      // (V', width)
};

// out (B, T', V', C_out) dense. A feature map is a clip of B clips with one body. Work items are blocks of frames of a
// row, in order.
template <class Real> struct GraphConvParams {
    const Real* x;
    std::int64_t x_clip, x_body, x_channel, x_frame, x_joint;  // strides
    ViewMaps<Real> view;
    const std::int32_t* nodes;  // (N, V'); null: joint v plays node v
    std::int64_t nodes_stride, rows_per_nodes;
    const Real* scale;  // (V_graph, C) dense, or null
    const Real* shift;
    const Real* adjacency;
    std::int64_t adjacency_row, adjacency_part, adjacency_source, adjacency_target;  // strides; row 0 if shared
    GraphConvEntries<Real> whole_into, whole_from;  // of all nodes; starts null where rows are to be scanned
    const Real* bias;                               // (K, C_out) dense, or null
    const Real* joint_bias;                         // (V', C_out) dense, or null: added as it is, in place of bias
    bool relu;                                      // of the result; not with sums
    const Real* packed;                             // weights: K taps of (C → C_out)
    Real* out;
    std::int64_t rows, bodies, frames, joints, channels, width, parts, out_channels, graph, block;
    GraphConvWorkspace<Real> work;
};

// Gradients, each null where it is not wanted. Work items are shares: share i sums the rows [B·i/shares,
// B·(i+1)/shares) in order into its own part of the `_parts` arrays, which the caller adds up.
template <class Real> struct GraphConvBackwardParams {
    GraphConvParams<Real> forward;  // its `packed` and `out` are not used
    const Real* g;                  // (B, T', V', C_out) dense
    const Real* y;                  // as g: the forward's out. Null: its sums have no gradient
    const double* sums_grad;        // (2, C_out)
    const Real* packed_transposed;  // one tap of (C_out → K·width), the padding zero
    const bool* pattern;            // (K, V_graph, V_graph) by strides; null: the dense gradient
    std::int64_t pattern_part, pattern_source, pattern_target;
    std::int64_t shares, x_frames, x_joints;
    Real* x_grad;           // (N, M, T, V, C) dense
    Real* weight_parts;     // (shares, K·width, C_out)
    Real* adjacency_parts;  // (shares, K, V_graph, V_graph)
    Real* adjacency_grad;   // (B, K, V_graph, V_graph) dense: instead of the parts where each row has its own
    Real* bias_parts;       // (shares, K, C_out)
    Real* scale_parts;      // (shares, V_graph, C)
    Real* shift_parts;
};

}  // namespace asma::cpu
