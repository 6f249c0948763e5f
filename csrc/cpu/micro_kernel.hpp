// The register-tiled kernels under every product of rows with weights: channel products, temporal convolutions, and the
// gradients of both.
//
//   multiply_rows           out[r, n]  = Σ_tap Σ_c source_tap[r, c] · weights_tap[c, n] + (bias[n] or out[r, n] or 0)
//   accumulate_outer        sums[c, n] += Σ_stretch Σ_r source[r, c] · gradient[r, n]
//   pack_weights            lays weights out as multiply_rows reads them
//
// A row is a joint of a frame: `channels` contiguous numbers (channels last), rows a fixed stride apart. Taps are a
// fixed stride apart too, in the source (a frame, a partition's buffer; may be negative) and in the packed weights: a
// 1×1 convolution is one tap, a k×1 convolution a tap per kernel frame, a graph convolution a tap per partition, and
// the input gradient of a strided convolution every stride-th tap.
//
// Packed weights: columns are cut into panels of two vectors (the last of one, where one is enough), zero beyond the
// last column. The panel that begins at column n starts at packed + n · taps · channels, and holds
// [tap][channel][width]: a tile walks it from front to back. A caller that does not know which instruction set is in
// force allocates packed_columns(columns) · taps · channels numbers and cuts columns at multiples of slab_columns
// (cpu/packing.hpp).
//
// A tile keeps Rows × Vectors sums in registers: for every channel it loads `Vectors` weights, broadcasts one number of
// each row and multiplies. 14 × 2 of the 32 registers of AVX-512 and NEON (28 multiply-adds for 16 loads), 6 × 2 of the
// 16 of AVX2 and SSE. Rows are shared out evenly over the tiles (25 joints are 13 + 12, not 14 + 11), each size being a
// template instance, so there is no remainder loop. The sums of an element are taken over taps, then channels, in
// ascending order, whatever the tile: results do not depend on how the caller cuts rows. After chain_terms terms
// (wide panels, where that costs most: after a sixth of all, if that is more; or after as many as the caller allows)
// they are added to out, and start from zero: the rounding error of 9 taps of 256 channels would otherwise grow with
// their 2,304 terms. The bias comes last, so that a large one costs no term its digits. accumulate_outer does the same
// after chain_rows rows.
#pragma once

#include "cpu/packing.hpp"
#include "cpu/simd.hpp"

namespace asma::cpu::ASMA_ISA {

// ---- geometry ----

inline constexpr std::int64_t panel_columns = 2 * lanes;
inline constexpr std::int64_t chain_terms = 32, wide_chains = 6, chain_rows = 32, outer_block = 128;
static_assert(slab_columns % panel_columns == 0 && packed_columns(1) >= lanes);

template <int Vectors> inline constexpr int tile_rows =
    Vectors == 1 ? (vector_registers == 32 ? 16 : 12) : (vector_registers == 32 ? 14 : 6);

static inline std::int64_t panel_width(std::int64_t columns) {
    return columns > lanes ? panel_columns : lanes;
}

// ---- packing ----

// weights[n · column_stride + c · channel_stride + tap · tap_stride] → packed.
struct WeightLayout {
    std::int64_t column_stride, channel_stride, tap_stride;
    std::int64_t columns, channels, taps;
};

static inline void pack_panel(const real* weights, const WeightLayout& w, std::int64_t columns, real* packed) {
    const std::int64_t width = panel_width(columns);
    // Whichever axis is slowest in memory goes outermost: reads are then sequential, writes stay in the panel.
    const bool columns_outer = w.column_stride > w.channel_stride;
    const std::int64_t outer = columns_outer ? columns : w.channels, inner = columns_outer ? w.channels : columns;
    const std::int64_t outer_stride = columns_outer ? w.column_stride : w.channel_stride;
    const std::int64_t inner_stride = columns_outer ? w.channel_stride : w.column_stride;
    const std::int64_t outer_step = columns_outer ? 1 : width, inner_step = columns_outer ? width : 1;
    for (std::int64_t i = 0; i < outer; ++i)
        for (std::int64_t k = 0; k < inner; ++k) {
            const real* from = weights + i * outer_stride + k * inner_stride;
            real* to = packed + i * outer_step + k * inner_step;
            for (std::int64_t tap = 0; tap < w.taps; ++tap) to[tap * w.channels * width] = from[tap * w.tap_stride];
        }
    if (columns < width)
        for (std::int64_t row = 0; row < w.taps * w.channels; ++row)
            for (std::int64_t n = columns; n < width; ++n) packed[row * width + n] = 0;
}

// Packs the columns [begin, end); begin is a multiple of panel_columns. `packed` is the whole buffer.
static inline void pack_weights(const real* weights, const WeightLayout& w, std::int64_t begin, std::int64_t end,
                                real* packed) {
    for (std::int64_t n = begin; n < end; n += panel_columns)
        pack_panel(weights + n * w.column_stride, w, end - n < panel_columns ? end - n : panel_columns,
                   packed + n * w.taps * w.channels);
}

// ---- rows × weights ----

struct RowProduct {
    const real* source;  // of the first tap
    real* out;
    const real* packed;                            // the whole buffer
    const real* bias;                              // per column, or null
    bool accumulate;                               // add to what stands in out; then bias is not looked at
    std::int64_t source_row, source_tap, out_row;  // strides
    std::int64_t rows, channels;
    std::int64_t packed_taps;                // taps in the buffer
    std::int64_t first_tap, tap_step, taps;  // those to take: first, first + step, …; none gives bias or zero
    std::int64_t chain = 0;                  // terms that a chain may have, if more than it would
};

// One panel of a product, every store and load of it a whole vector.
struct Panel {
    const real* source;
    const real* weights;
    const real* bias;  // a whole panel, or null
    real* out;
    std::int64_t out_row;
    bool accumulate;
};

static inline void copy_columns(const real* from, std::int64_t from_row, real* to, std::int64_t to_row,
                                std::int64_t rows, std::int64_t columns) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t n = 0; n < columns; ++n) to[r * to_row + n] = from[r * from_row + n];
}

template <int Rows, int Vectors> [[gnu::noinline]] static void multiply_tile(const RowProduct& p, const Panel& panel) {
    const std::int64_t skipped_taps = (p.tap_step - 1) * p.channels * Vectors * lanes;
    std::int64_t row = p.source_row * static_cast<std::int64_t>(sizeof(real)), three_rows = 3 * row;  // bytes
    asm("" : "+r"(row), "+r"(three_rows));
    const real* weights = panel.weights;
    const std::int64_t share = Vectors == 1 ? 0 : p.taps * p.channels / wide_chains;
    const std::int64_t least = p.chain > chain_terms ? p.chain : chain_terms, longest = share > least ? share : least;
    bool add = panel.accumulate;
    std::int64_t tap = 0, begin = 0;
    do {
        Vec sums[Rows][Vectors];
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) sums[r][v] = Vec{};
        }
        for (std::int64_t chain = 0; tap < p.taps && chain < longest;) {
            const std::int64_t left = p.channels - begin, channels = left < longest ? left : longest;
            chain += channels;
            // One pointer for four rows: with one for each, the compiler runs out of registers, and keeps pointers in
            // the vector registers. It must not know that they are related.
            const char* four_rows[(Rows + 3) / 4];
            four_rows[0] = reinterpret_cast<const char*>(panel.source + tap * p.source_tap + begin);
#pragma GCC unroll 16
            for (int r = 4; r < Rows; r += 4) four_rows[r / 4] = four_rows[r / 4 - 1] + 4 * row;
            for (const real* end = weights + channels * Vectors * lanes; weights != end; weights += Vectors * lanes) {
                Vec weight[Vectors];
#pragma GCC unroll 16
                for (int v = 0; v < Vectors; ++v) weight[v] = load(weights + v * lanes);
#pragma GCC unroll 16
                for (int r = 0; r < Rows; ++r) {
                    const std::int64_t offset = r % 4 == 3 ? three_rows : r % 4 * row;
                    const Vec number = broadcast(*reinterpret_cast<const real*>(four_rows[r / 4] + offset));
#pragma GCC unroll 16
                    for (int v = 0; v < Vectors; ++v) sums[r][v] += number * weight[v];
                }
#pragma GCC unroll 16
                for (int r = 0; r < Rows; r += 4) {
                    four_rows[r / 4] += sizeof(real);
                    asm("" : "+r"(four_rows[r / 4]));
                }
            }
            begin += channels;
            if (begin == p.channels) {
                ++tap;
                begin = 0;
                weights += skipped_taps;
            }
        }
        real* out = panel.out;
        if (add) {
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < Vectors; ++v) sums[r][v] += load(out + r * panel.out_row + v * lanes);
        }
        if (panel.bias && tap == p.taps) {
#pragma GCC unroll 16
            for (int v = 0; v < Vectors; ++v) {
                const Vec bias = load(panel.bias + v * lanes);
#pragma GCC unroll 16
                for (int r = 0; r < Rows; ++r) sums[r][v] += bias;
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < Vectors; ++v) store(out + r * panel.out_row + v * lanes, sums[r][v]);
        add = true;
    } while (tap < p.taps);
}

template <int Vectors, int Rows = tile_rows<Vectors>>
static inline void multiply_tile_of(int rows, const RowProduct& p, const Panel& panel) {
    if constexpr (Rows > 1)
        if (rows != Rows) return multiply_tile_of<Vectors, Rows - 1>(rows, p, panel);
    multiply_tile<Rows, Vectors>(p, panel);
}

template <int Vectors> static void multiply_panel(const RowProduct& p, Panel panel, std::int64_t columns) {
    constexpr std::int64_t width = Vectors * lanes;
    real edge[tile_rows<Vectors> * width] = {}, edge_bias[width] = {};
    real* const out = panel.out;
    const bool partial = columns < width;
    if (partial) {
        panel.out = edge, panel.out_row = width;
        if (panel.bias) {
            copy_columns(panel.bias, 0, edge_bias, 0, 1, columns);
            panel.bias = edge_bias;
        }
    }
    std::int64_t tiles = (p.rows + tile_rows<Vectors> - 1) / tile_rows<Vectors>;
    for (std::int64_t done = 0; done < p.rows; --tiles) {
        const std::int64_t rows = (p.rows - done + tiles - 1) / tiles;
        real* const to = out + done * p.out_row;
        if (partial && p.accumulate) copy_columns(to, p.out_row, edge, width, rows, columns);
        if (!partial) panel.out = to;
        multiply_tile_of<Vectors>(static_cast<int>(rows), p, panel);
        if (partial) copy_columns(edge, width, to, p.out_row, rows, columns);
        panel.source += rows * p.source_row;
        done += rows;
    }
}

// The columns [begin, end) of the product; begin is a multiple of panel_columns.
static inline void multiply_rows(const RowProduct& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; n += panel_columns) {
        const std::int64_t columns = end - n < panel_columns ? end - n : panel_columns, width = panel_width(columns);
        Panel panel{};
        panel.source = p.source;
        panel.weights = p.packed + n * p.packed_taps * p.channels + p.first_tap * p.channels * width;
        panel.bias = p.bias && !p.accumulate ? p.bias + n : nullptr;
        panel.out = p.out + n, panel.out_row = p.out_row;
        panel.accumulate = p.accumulate;
        if (width == lanes)
            multiply_panel<1>(p, panel, columns);
        else
            multiply_panel<2>(p, panel, columns);
    }
}

// ---- sums of outer products ----

struct OuterProduct {
    const real* source;                               // (stretches, rows, channels)
    const real* gradient;                             // (stretches, rows, columns)
    real* sums;                                       // (channels, columns)
    std::int64_t source_row, gradient_row, sums_row;  // strides
    std::int64_t rows, channels;
    // The rows come in stretches this far apart: of the source (every stride-th frame, say), and of the gradient.
    std::int64_t stretches = 1, source_stretch = 0, gradient_stretch = 0;
};

// The tile reads whole vectors of a gradient row and adds whole vectors to sums.
template <int Channels, int Vectors> [[gnu::noinline]] static void outer_tile(const OuterProduct& p) {
    std::int64_t stretch = 0, begin = 0;
    while (stretch < p.stretches) {
        Vec sums[Channels][Vectors];
#pragma GCC unroll 16
        for (int c = 0; c < Channels; ++c)
#pragma GCC unroll 16
            for (int v = 0; v < Vectors; ++v) sums[c][v] = Vec{};
        for (std::int64_t chain = 0; stretch < p.stretches && chain < chain_rows;) {
            const std::int64_t left = p.rows - begin, rows = left < chain_rows ? left : chain_rows;
            chain += rows;
            const real* source = p.source + stretch * p.source_stretch + begin * p.source_row;
            const real* gradient = p.gradient + stretch * p.gradient_stretch + begin * p.gradient_row;
            for (std::int64_t r = 0; r < rows; ++r) {
                Vec row[Vectors];
#pragma GCC unroll 16
                for (int v = 0; v < Vectors; ++v) row[v] = load(gradient + v * lanes);
#pragma GCC unroll 16
                for (int c = 0; c < Channels; ++c) {
                    const Vec number = broadcast(source[c]);
#pragma GCC unroll 16
                    for (int v = 0; v < Vectors; ++v) sums[c][v] += number * row[v];
                }
                source += p.source_row;
                gradient += p.gradient_row;
            }
            begin += rows;
            if (begin == p.rows) {
                ++stretch;
                begin = 0;
            }
        }
#pragma GCC unroll 16
        for (int c = 0; c < Channels; ++c)
#pragma GCC unroll 16
            for (int v = 0; v < Vectors; ++v) {
                real* to = p.sums + c * p.sums_row + v * lanes;
                store(to, load(to) + sums[c][v]);
            }
    }
}

template <int Vectors, int Channels = tile_rows<Vectors>>
static inline void outer_tile_of(int channels, const OuterProduct& p) {
    if constexpr (Channels > 1)
        if (channels != Channels) return outer_tile_of<Vectors, Channels - 1>(channels, p);
    outer_tile<Channels, Vectors>(p);
}

// All channels of a block of rows. Sums of a panel with columns to spare go through a padded copy.
template <int Vectors> static void outer_channels(OuterProduct p, std::int64_t columns) {
    constexpr std::int64_t width = Vectors * lanes;
    const std::int64_t channels = p.channels, sums_row = p.sums_row;
    std::int64_t tiles = (channels + tile_rows<Vectors> - 1) / tile_rows<Vectors>;
    for (std::int64_t done = 0; done < channels; --tiles) {
        const std::int64_t count = (channels - done + tiles - 1) / tiles;
        if (columns == width) {
            outer_tile_of<Vectors>(static_cast<int>(count), p);
        } else {
            real edge[tile_rows<Vectors> * width] = {};
            OuterProduct padded = p;
            padded.sums = edge, padded.sums_row = width;
            outer_tile_of<Vectors>(static_cast<int>(count), padded);
            for (std::int64_t c = 0; c < count; ++c)
                for (std::int64_t n = 0; n < columns; ++n) p.sums[c * sums_row + n] += edge[c * width + n];
        }
        p.source += count;
        p.sums += count * sums_row;
        done += count;
    }
}

// Cuts rows into blocks of outer_block to twice as many: several stretches, or a part of one. Where many tiles read a
// block's gradients and these lie far apart (rows a power of two apart push each other out of the first cache), or a
// whole vector would reach past their end, they are read from a dense, padded copy.
template <int Vectors> static void outer_panel(const OuterProduct& whole, std::int64_t columns) {
    constexpr std::int64_t width = Vectors * lanes;
    if (whole.rows == 0) return;
    real copy[2 * outer_block * width];
    OuterProduct p = whole;
    const bool far_apart = whole.gradient_row > 4 * width && whole.channels > 3 * tile_rows<Vectors>;
    const bool copied = columns < width || far_apart;
    if (copied) {
        for (real& number : copy) number = 0;
        p.gradient = copy, p.gradient_row = width;
    }
    const std::int64_t together = (outer_block + whole.rows - 1) / whole.rows;
    const std::int64_t parts = whole.rows < 2 * outer_block ? 1 : whole.rows / outer_block;
    for (std::int64_t stretch = 0; stretch < whole.stretches; stretch += together) {
        const std::int64_t left = whole.stretches - stretch;
        p.stretches = left < together ? left : together;
        for (std::int64_t part = 0; part < parts; ++part) {
            const std::int64_t begin = part * whole.rows / parts;
            p.rows = (part + 1) * whole.rows / parts - begin;
            p.source = whole.source + stretch * whole.source_stretch + begin * whole.source_row;
            const real* gradient = whole.gradient + stretch * whole.gradient_stretch + begin * whole.gradient_row;
            if (copied) {
                p.gradient_stretch = p.rows * width;
                for (std::int64_t i = 0; i < p.stretches; ++i)
                    copy_columns(gradient + i * whole.gradient_stretch, whole.gradient_row,
                                 copy + i * p.gradient_stretch, width, p.rows, columns);
            } else {
                p.gradient = gradient;
            }
            outer_channels<Vectors>(p, columns);
        }
    }
}

// The columns [begin, end) of the sums.
static inline void accumulate_outer(const OuterProduct& whole, std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; n += panel_columns) {
        const std::int64_t columns = end - n < panel_columns ? end - n : panel_columns;
        OuterProduct p = whole;
        p.gradient += n;
        p.sums += n;
        if (columns > lanes)
            outer_panel<2>(p, columns);
        else
            outer_panel<1>(p, columns);
    }
}

}  // namespace asma::cpu::ASMA_ISA
