// What a temporal convolution does to rows on their way in (ConvLoad) and out (ConvStore).
#pragma once

#include "cpu/simd.hpp"
#include "cpu/statistics.hpp"
#include "cpu/temporal_conv.hpp"

namespace asma::cpu::ASMA_ISA {

// NaN stays NaN.
static inline Vec relu(const Vec& x) {
    return x < 0 ? Vec{} : x;
}
static inline real relu(real x) {
    return x < 0 ? real{0} : x;
}

// to[r, c] = relu(scale[c] · from[r, c] + shift[c]); `to` is dense.
static inline void load_rows(const real* from, std::int64_t from_row, std::int64_t rows, std::int64_t channels,
                             const real* scale, const real* shift, real* to) {
    for (std::int64_t r = 0; r < rows; ++r, from += from_row, to += channels) {
        std::int64_t c = 0;
        for (; c + lanes <= channels; c += lanes)
            store(to + c, relu(load(scale + c) * load(from + c) + load(shift + c)));
        for (; c < channels; ++c) to[c] = relu(scale[c] * from[c] + shift[c]);
    }
}

// The gradient of relu(scale · x + shift) at g, to that of x; adds its sums. `row` is the stride of all three.
static inline void pass_gate(const real* x, real* g, std::int64_t row, std::int64_t rows, std::int64_t columns,
                             const real* scale, const real* shift, double* scale_sums, double* shift_sums) {
    std::int64_t n = 0;
    for (; n + lanes <= columns; n += lanes) {
        const Vec factor = load(scale + n), constant = load(shift + n);
        Vec products{}, sums{};
        for (std::int64_t r = 0; r < rows; ++r) {
            const Vec number = load(x + r * row + n), gradient = load(g + r * row + n);
            const Vec passed = factor * number + constant <= 0 ? Vec{} : gradient;
            products += passed * number;
            sums += passed;
            store(g + r * row + n, passed * factor);
        }
        for (int lane = 0; lane < lanes; ++lane) {
            scale_sums[n + lane] += static_cast<double>(products[lane]);
            shift_sums[n + lane] += static_cast<double>(sums[lane]);
        }
    }
    for (; n < columns; ++n) {
        double products = 0, sums = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
            real& gradient = g[r * row + n];
            const real number = x[r * row + n];
            const real passed = scale[n] * number + shift[n] <= 0 ? real{0} : gradient;
            products += static_cast<double>(passed) * static_cast<double>(number);
            sums += static_cast<double>(passed);
            gradient = passed * scale[n];
        }
        scale_sums[n] += products;
        shift_sums[n] += sums;
    }
}

static inline void add_residual(real* out, const real* residual, bool with_relu, std::int64_t columns) {
    std::int64_t n = 0;
    for (; n + lanes <= columns; n += lanes) {
        const Vec sum = residual ? load(out + n) + load(residual + n) : load(out + n);
        store(out + n, with_relu ? relu(sum) : sum);
    }
    for (; n < columns; ++n) {
        const real sum = residual ? out[n] + residual[n] : out[n];
        out[n] = with_relu ? relu(sum) : sum;
    }
}

// The rows from element `at` of out on, `row` apart, of the columns of a group that begin at column `column`. Rows by
// some dozens, so that sums in `real` stay short.
static inline void finish_rows(const ConvStore<real>& store, real* out, std::int64_t at, std::int64_t row,
                               std::int64_t rows, std::int64_t column, std::int64_t columns, double* sums) {
    constexpr std::int64_t rows_of_a_sum = 64;
    if (store.residual || store.relu)
        for (std::int64_t r = 0; r < rows; ++r)
            add_residual(out + at + r * row, store.residual ? store.residual + at + r * row : nullptr, store.relu,
                         columns);
    if (!sums) return;
    for (std::int64_t r = 0; r < rows; r += rows_of_a_sum) {
        const std::int64_t count = rows - r < rows_of_a_sum ? rows - r : rows_of_a_sum, from = at + r * row;
        if (store.gate)
            pass_gate(store.gate + from, out + from, row, count, columns, store.gate_scale + column,
                      store.gate_shift + column, sums, sums + columns);
        else
            add_channel_sums(out + from, row, count, columns, sums, sums + columns);
    }
}

}  // namespace asma::cpu::ASMA_ISA
