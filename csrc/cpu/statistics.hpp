// What batch-norm asks of the op before it: sums of every channel, and their gradient.
#pragma once

#include "cpu/simd.hpp"

namespace asma::cpu::ASMA_ISA {

// Of the columns [0, Vectors · lanes), over all rows.
template <int Vectors> static inline void add_vector_sums(const real* y, std::int64_t row_stride, std::int64_t rows,
                                                          double* sums, double* square_sums) {
    constexpr int chains = 4 / Vectors;
    Vec shift[Vectors], sum[chains][Vectors] = {}, squares[chains][Vectors] = {};
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) shift[v] = load(y + v * lanes);
    std::int64_t row = 0;
    for (; row + chains <= rows; row += chains)
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
                const Vec difference = load(y + (row + c) * row_stride + v * lanes) - shift[v];
                sum[c][v] += difference;
                squares[c][v] += difference * difference;
            }
    for (; row < rows; ++row)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            const Vec difference = load(y + row * row_stride + v * lanes) - shift[v];
            sum[0][v] += difference;
            squares[0][v] += difference * difference;
        }
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 4
        for (int c = 1; c < chains; ++c) sum[0][v] += sum[c][v], squares[0][v] += squares[c][v];
        for (int lane = 0; lane < lanes; ++lane) {
            const double k = shift[v][lane], d = sum[0][v][lane], q = squares[0][v][lane];
            const double n = static_cast<double>(rows);
            sums[v * lanes + lane] += n * k + d;
            square_sums[v * lanes + lane] += q + k * (2 * d + n * k);
        }
    }
}

// sums[n] += Σ_r y[r, n] and square_sums[n] += Σ_r y[r, n]². The rows, a tile still in cache, are summed in `real` as
// differences from the first of them, so that a variance far below the square of its mean keeps its digits. Up to some
// hundred rows at a time.
static inline void add_channel_sums(const real* y, std::int64_t row_stride, std::int64_t rows, std::int64_t columns,
                                    double* sums, double* square_sums) {
    if (rows == 0) return;
    std::int64_t n = 0;
    for (; n + 2 * lanes <= columns; n += 2 * lanes)
        add_vector_sums<2>(y + n, row_stride, rows, sums + n, square_sums + n);
    if (n + lanes <= columns) {
        add_vector_sums<1>(y + n, row_stride, rows, sums + n, square_sums + n);
        n += lanes;
    }
    for (; n < columns; ++n) {
        double sum = 0, squares = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
            const double difference = y[row * row_stride + n] - y[n];
            sum += difference;
            squares += difference * difference;
        }
        const double k = y[n], count = static_cast<double>(rows);
        sums[n] += count * k + sum;
        square_sums[n] += squares + k * (2 * sum + count * k);
    }
}

// out[r, n] = g[r, n] + sums_grad[0, n] + 2 · y[r, n] · sums_grad[1, n], rows dense. Where the mean of y is large the
// last two terms cancel: their factors are taken as sums of two numbers.
static inline void add_sums_grad(const real* g, const real* y, std::int64_t rows, std::int64_t columns,
                                 const double* sums_grad, real* out) {
    for (std::int64_t begin = 0; begin < columns; begin += lanes) {
        const std::int64_t width = columns - begin < lanes ? columns - begin : lanes;
        Vec constant{}, constant_rest{}, factor{}, factor_rest{};
        for (std::int64_t n = 0; n < width; ++n) {
            const double first = sums_grad[begin + n], second = 2 * sums_grad[columns + begin + n];
            constant[n] = static_cast<real>(first), factor[n] = static_cast<real>(second);
            constant_rest[n] = static_cast<real>(first - constant[n]);
            factor_rest[n] = static_cast<real>(second - factor[n]);
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            const std::int64_t at = row * columns + begin;
            if (width == lanes) {
                const Vec number = load(y + at);
                store(out + at, load(g + at) + ((number * factor + constant) + (number * factor_rest + constant_rest)));
            } else {
                for (std::int64_t n = 0; n < width; ++n)
                    out[at + n] = g[at + n] + ((y[at + n] * factor[n] + constant[n]) +
                                               (y[at + n] * factor_rest[n] + constant_rest[n]));
            }
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
