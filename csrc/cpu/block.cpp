// The last pass of a block, relu(dropout(scale · x + shift) + residual), and its gradient: bound by memory, so that
// each array is passed over once. A vector's channels are read from tables that repeat their start.
#include "cpu/block.hpp"

#include "cpu/random_bits.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

static_assert(dropout_piece % drawn_together == 0);

inline Vec load_some(const real* from, std::int64_t count) {
    if (count >= lanes) return load(from);
    Vec values{};
    for (std::int64_t lane = 0; lane < count; ++lane) values[lane] = from[lane];
    return values;
}

inline void store_some(real* to, Vec values, std::int64_t count) {
    if (count >= lanes) return store(to, values);
    for (std::int64_t lane = 0; lane < count; ++lane) to[lane] = values[lane];
}

// Calls body(i, channel, bits, count) for each vector of the elements [from, to) of sample n; bits without dropout are
// not drawn.
template <bool drops, class Params, class Body>
inline void each_vector(const Params& p, std::int64_t n, std::int64_t from, std::int64_t to, const Body& body) {
    const std::int64_t step = lanes % p.channels;
    std::int64_t channel = from % p.channels;
    for (std::int64_t i = from; i < to; i += drawn_together) {
        Bits bits[drops ? drawn_together : lanes];
        if constexpr (drops)
            draw_bits(p.seed, static_cast<std::uint64_t>(p.ids[n]), static_cast<std::uint32_t>(i / 8), p.purpose, bits);
        const std::int64_t until = i + drawn_together < to ? i + drawn_together : to;
        for (std::int64_t j = i; j < until; j += lanes) {
            body(j, channel, drops ? bits + (j - i) : bits, until - j);
            channel += step;
            if (channel >= p.channels) channel -= p.channels;
        }
    }
}

template <bool drops> inline void forward(const BlockOutputParams<real>& p, std::int64_t item) {
    const std::int64_t n = item / p.pieces, from = item % p.pieces * dropout_piece;
    const std::int64_t to = from + dropout_piece < p.size ? from + dropout_piece : p.size;
    const real* x = p.x + n * p.size;
    const real* residual = p.residual ? p.residual + n * p.size : nullptr;
    real* out = p.out + n * p.size;
    each_vector<drops>(p, n, from, to, [&](std::int64_t i, std::int64_t c, const Bits* bits, std::int64_t count) {
        Vec y = load_some(x + i, count) * load(p.scale + c) + load(p.shift + c);
        if constexpr (drops) y = keep(y, bits, p.cut);
        if (residual) {
            Vec r = load_some(residual + i, count);
            if (p.residual_scale) r = r * load(p.residual_scale + c) + load(p.residual_shift + c);
            y += r;
        }
        store_some(out + i, y < Vec{} ? Vec{} : y, count);  // a NaN stays
    });
}

// Double sums: the pass has the time, as it waits for memory.
typedef double Doubles __attribute__((vector_size(ASMA_VECTOR_BYTES), may_alias, aligned(sizeof(double))));
constexpr int doubles = ASMA_VECTOR_BYTES / static_cast<int>(sizeof(double));
typedef real Narrow __attribute__((vector_size(doubles * sizeof(real)), may_alias));

// `auto*` would lose the alignment of the type.
inline void add(double* sums, const Vec& values) {
    for (int part = 0; part < lanes / doubles; ++part) {
        Doubles* to = reinterpret_cast<Doubles*>(sums + part * doubles);
        *to = *to + __builtin_convertvector(reinterpret_cast<const Narrow*>(&values)[part], Doubles);
    }
}

template <bool drops, bool sums, bool residual_sums>
inline void backward(const BlockOutputBackwardParams<real>& p, std::int64_t item, double* table) {
    const std::int64_t n = item / p.pieces, from = item % p.pieces * dropout_piece;
    const std::int64_t to = from + dropout_piece < p.size ? from + dropout_piece : p.size;
    const std::int64_t start = n * p.size, entries = channel_table(p.channels);
    const real *all_g = p.g + start, *out = p.out + start;
    const real* x = p.x ? p.x + start : nullptr;
    const real* residual = p.residual ? p.residual + start : nullptr;
    real* x_grad = p.x_grad ? p.x_grad + start : nullptr;
    real* residual_grad = p.residual_grad ? p.residual_grad + start : nullptr;
    each_vector<drops>(p, n, from, to, [&](std::int64_t i, std::int64_t c, const Bits* bits, std::int64_t count) {
        Vec g = load_some(all_g + i, count);
        g = load_some(out + i, count) <= Vec{} ? Vec{} : g;
        if (residual_grad) store_some(residual_grad + i, p.residual_scale ? g * load(p.residual_scale + c) : g, count);
        if constexpr (residual_sums) {
            add(table + 2 * entries + c, g);
            if (residual)
                add(table + 3 * entries + c, g * (load_some(residual + i, count) - load(p.residual_pivot + c)));
        }
        if constexpr (drops) g = keep(g, bits, p.cut);
        if (x_grad) store_some(x_grad + i, g * load(p.scale + c), count);
        if constexpr (sums) {
            add(table + c, g);
            if (x) add(table + entries + c, g * (load_some(x + i, count) - load(p.pivot + c)));
        }
    });
}

template <bool drops, bool sums, bool residual_sums>
void backward_parts(const BlockOutputBackwardParams<real>& p, std::int64_t begin, std::int64_t end) {
    const std::int64_t entries = 4 * channel_table(p.channels);
    for (std::int64_t part = begin; part < end; ++part) {
        double* table = p.partial + part * entries;
        for (std::int64_t i = 0; i < entries; ++i) table[i] = 0;
        const std::int64_t first = part * p.part_pieces;
        const std::int64_t last = first + p.part_pieces < p.all_pieces ? first + p.part_pieces : p.all_pieces;
        for (std::int64_t item = first; item < last; ++item) backward<drops, sums, residual_sums>(p, item, table);
    }
}

}  // namespace

void block_output(const BlockOutputParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) p.cut ? forward<true>(p, item) : forward<false>(p, item);
}

void block_output_backward(const BlockOutputBackwardParams<real>& p, std::int64_t begin, std::int64_t end) {
    using Parts = void (*)(const BlockOutputBackwardParams<real>&, std::int64_t, std::int64_t);
    static constexpr Parts parts[] = {
        backward_parts<false, false, false>, backward_parts<false, false, true>, backward_parts<false, true, false>,
        backward_parts<false, true, true>,   backward_parts<true, false, false>, backward_parts<true, false, true>,
        backward_parts<true, true, false>,   backward_parts<true, true, true>,
    };
    parts[(p.cut ? 4 : 0) + (p.sums ? 2 : 0) + (p.residual_sums ? 1 : 0)](p, begin, end);
}

}  // namespace asma::cpu::ASMA_ISA
