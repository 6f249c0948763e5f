// Graph convolution: joints are gathered along the non-zero entries of the adjacency on the narrow, input side, and the
// channel product follows while they are in cache. The three partitions of 25 joints hold 73 entries of 1,875, so the
// gathering is next to nothing and the product has no more rows than joints.
//
//   x̂[t, v, c]    read through the view, scaled and shifted by node
//   z[t, w, k, c] = Σ_v A[k, v, w] · x̂[t, v, c]
//   out[t, w, o]  = Σ_k Σ_c z[t, w, k, c] · W[k, o, c] + Σ_k (Σ_v A[k, v, w]) · bias[k, o]
#include "cpu/conv_rows.hpp"
#include "cpu/graph_conv_rows.hpp"
#include "cpu/statistics.hpp"

namespace asma::cpu::ASMA_ISA {

namespace {

// The frames [first, first + count) of row b, scaled and shifted; where they stand, if that will do.
Frames read_block(const GraphConvParams<real>& p, const Graph& graph, std::int64_t b, std::int64_t first,
                  std::int64_t count) {
    if (p.width == joint_padding<real> && (p.scale || p.view.transform || p.channels != p.width))
        return p.channels == 3 ? read_quads<3>(p, b, first, count) : read_quads<0>(p, b, first, count);
    const Frames read = read_unscaled(p, b, first, count, p.work.read);
    return p.scale ? scale_and_shift(p, graph, read, count, p.work.read) : read;
}

}  // namespace

void graph_conv(const GraphConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    Graph graph;
    const std::int64_t blocks = (p.frames + p.block - 1) / p.block, frame_size = p.joints * p.out_channels;
    const bool one_pass = in_one_pass(p.width);
    const std::int64_t part = one_pass ? p.channels : p.width;
    std::int64_t prepared = -1;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t b = item / blocks, first = item % blocks * p.block;
        const std::int64_t count = p.frames - first < p.block ? p.frames - first : p.block;
        take_graph(p, b, graph, part);
        if (p.width == joint_padding<real> && b != prepared) prepare_quads(p, graph, b), prepared = b;
        const Frames read = read_block(p, graph, b, first, count);
        gather(p, read, count, part);
        if (read.first != p.work.read && read.joint == p.width)
            prefetch_block(p, read, count, first + count + p.block < p.frames ? count + p.block : p.frames - first);
        real* out = p.out + (b * p.frames + first) * frame_size;
        const real* const bias_rows = p.bias ? p.work.bias_rows : p.joint_bias;
        for (std::int64_t t = 0; bias_rows && t < count; ++t)
            __builtin_memcpy(out + t * frame_size, bias_rows, static_cast<std::size_t>(frame_size) * sizeof(real));
        RowProduct product{};
        product.source = p.work.gathered, product.out = out, product.packed = p.packed;
        product.accumulate = bias_rows != nullptr;
        product.source_row = p.parts * p.width, product.source_tap = p.width, product.out_row = p.out_channels;
        product.rows = count * p.joints, product.tap_step = 1;
        product.channels = one_pass ? p.parts * p.channels : p.channels;
        product.packed_taps = product.taps = one_pass ? 1 : p.parts;
        multiply_rows(product, 0, p.out_channels);
        if (p.relu) add_residual(out, nullptr, true, count * frame_size);
        if (p.work.sums)
            add_channel_sums(out, p.out_channels, product.rows, p.out_channels, p.work.sums,
                             p.work.sums + p.out_channels);
    }
}

}  // namespace asma::cpu::ASMA_ISA
