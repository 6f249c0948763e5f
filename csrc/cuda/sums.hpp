// Gradients of parameters: sums over places, by a fixed number of shares of the rows, merged in their order; so the
// bits are the same every time. The shares lie in a workspace that the caller allocates.
#pragma once

#include <algorithm>

#include "cuda/arrays.hpp"
#include "cuda/products.hpp"

namespace asma::cuda {

// Shares of so many rows where each share is so many blocks: enough of them to fill a large device.
inline int shares_of(std::int64_t rows, std::int64_t blocks) {
    constexpr std::int64_t wanted_blocks = 512;
    const std::int64_t shares = (wanted_blocks + blocks - 1) / std::max<std::int64_t>(blocks, 1);
    return static_cast<int>(std::max<std::int64_t>(1, std::min(rows, shares)));
}

struct Rows {
    std::int64_t begin, end;
};

__device__ inline Rows rows_of(int share, int shares, std::int64_t rows) {
    // In 32 bits: there are fewer than 2^30 rows, and no more shares.
    const auto count = static_cast<unsigned>(rows), parts = static_cast<unsigned>(shares);
    const unsigned each = count / parts, more = count % parts, place = static_cast<unsigned>(share);
    const unsigned begin = place * each + (place < more ? place : more);
    return {begin, begin + each + (place < more ? 1 : 0)};
}

// ---- Σ over places of g[place, o] · r[place, n] ----

inline constexpr int sum_rows = 64, sum_depths = 2;  // of a tile; products between two barriers

template <class T> struct ProductSums {
    const T* g;   // (rows, places, groups · outs)
    float* sums;  // (shares, groups · outs, numbers)
    std::int64_t rows;
    int places, groups, outs, numbers, shares;
    int out_tiles, number_tiles;
    int left, right, scratch, other;  // in shared memory; other: what r keeps
};

// `Right` is r: of a row, begin(row, memory), which all threads call, gives what has column(group, n), whatever n takes
// to work out, and at(column, place); and carried(part, place), by which the bias counts there. Where it writes to
// memory it ends with a barrier.
template <class T, class Tile, class Right> __global__ void __launch_bounds__(product_threads, 2)
    sum_products(ProductSums<T> p, Right right_of) {
    using Storage = typename Tile::Storage;
    constexpr int deep = sum_depths;
    auto* left = shared_at<Storage>(p.left);
    auto* right = shared_at<Storage>(p.right);
    const int thread = static_cast<int>(threadIdx.x), n = thread % Tile::columns;
    unsigned rest = blockIdx.x;
    const int number = static_cast<int>(take_digit(rest, p.number_tiles)) * Tile::columns;
    const int out = static_cast<int>(take_digit(rest, p.out_tiles)) * Tile::rows;
    const int group = static_cast<int>(take_digit(rest, p.groups)), share = static_cast<int>(rest);
    const std::int64_t all_outs = std::int64_t{p.groups} * p.outs, first = std::int64_t{group} * p.outs + out;

    Tile sums;
    sums.clear();
    const Rows rows = rows_of(share, p.shares, p.rows);
    for (std::int64_t b = rows.begin; b < rows.end; ++b) {
        const auto row = right_of.begin(b, shared_memory() + p.other);
        const auto column = row.column(group, number + n < p.numbers ? number + n : 0);
        for (int begin = 0; begin < p.places; begin += deep * product_depth) {
            for (int at = thread; at < deep * product_depth * Tile::rows; at += product_threads) {
                const int place = at / Tile::rows, o = at % Tile::rows;
                float value = 0;
                if (begin + place < p.places && out + o < p.outs)
                    value = to_float(load(p.g + (b * p.places + begin + place) * all_outs + first + o));
                left[place * Tile::left_row + o] = Tile::round(value);
            }
            ASMA_ROLLED
            for (int place = thread / Tile::columns; place < deep * product_depth;
                 place += product_threads / Tile::columns) {
                const bool there = begin + place < p.places && number + n < p.numbers;
                right[place * Tile::right_row + n] = Tile::round(there ? row.at(column, begin + place) : 0);
            }
            block_barrier();
            for (int step = 0; step < deep; ++step)
                sums.multiply(left + step * Tile::left_numbers, right + step * Tile::right_numbers);
            block_barrier();
        }
    }
    sums.finish(shared_at<float>(p.scratch), [&](int o, int n, float sum) {
        if (out + o < p.outs && number + n < p.numbers)
            store(p.sums + (share * all_outs + first + o) * p.numbers + number + n, sum);
    });
}

// p has its sizes and addresses; `kept`: bytes that r keeps.
template <class T, class Right> void sum_all_products(const char* op, ProductSums<T> p, const Right& right,
                                                      std::int64_t kept, bool use_tf32, std::uintptr_t stream) {
    constexpr int rows = sum_rows, deep = sum_depths;
    with_product<T>(use_tf32, p.numbers, [&](auto* type, auto columns) {
        using Tile = Product<std::remove_pointer_t<decltype(type)>, rows, columns.value, true>;
        constexpr std::int64_t size = sizeof(typename Tile::Storage);
        p.out_tiles = (p.outs + rows - 1) / rows;
        p.number_tiles = (p.numbers + Tile::columns - 1) / Tile::columns;
        SharedPlan shared;
        p.left = shared.take(deep * Tile::left_numbers * size);
        p.right = shared.take(deep * Tile::right_numbers * size);
        p.scratch = shared.take(Tile::scratch_bytes);
        p.other = shared.take(kept);
        const std::int64_t blocks = std::int64_t{p.shares} * p.groups * p.out_tiles * p.number_tiles;
        launch({op, blocks, product_threads, shared.total(), stream}, sum_products<T, Tile, Right>, p, right);
    });
}

// ---- Σ over places of g[place, o] · carried(part, place) ----

// To (shares, parts, groups · outs). A block has 64 channels of a part of a share; what carries nothing is passed over.
template <class T, class Right> __global__ void __launch_bounds__(product_threads, 4)
    sum_biases(ProductSums<T> p, Right right_of, int parts, float* sums) {
    constexpr int wide = 64, high = product_threads / wide;
    auto* partial = shared_at<float>(0);
    const int outs = p.groups * p.outs, lane = static_cast<int>(threadIdx.x) / wide;
    unsigned rest = blockIdx.x;
    const int tile = static_cast<int>(take_digit(rest, (outs + wide - 1) / wide));
    const int part = static_cast<int>(take_digit(rest, parts)), share = static_cast<int>(rest);
    const int o = tile * wide + static_cast<int>(threadIdx.x) % wide;
    float sum = 0;
    const Rows rows = rows_of(share, p.shares, p.rows);
    for (std::int64_t b = rows.begin; b < rows.end; ++b) {
        const auto row = right_of.begin(b, shared_memory() + p.other);
        for (int place = lane; place < p.places && o < outs; place += high) {
            const float carried = row.carried(part, place);
            if (carried != 0) sum += carried * to_float(load(p.g + (b * p.places + place) * outs + o));
        }
        block_barrier();
    }
    partial[threadIdx.x] = sum;
    block_barrier();
    if (lane != 0 || o >= outs) return;
    for (int other = 1; other < high; ++other) sum += partial[threadIdx.x + other * wide];
    store(sums + (std::int64_t{share} * parts + part) * outs + o, sum);
}

template <class T, class Right> void sum_all_biases(const char* op, ProductSums<T> p, const Right& right, int parts,
                                                    std::int64_t kept, float* sums, std::uintptr_t stream) {
    SharedPlan shared;
    shared.take(product_threads * std::int64_t{sizeof(float)});
    p.other = shared.take(kept);
    const std::int64_t blocks = std::int64_t{p.shares} * parts * ((std::int64_t{p.groups} * p.outs + 63) / 64);
    launch({op, blocks, product_threads, shared.total(), stream}, sum_biases<T, Right>, p, right, parts, sums);
}

// Shares of the rows for sums of products.
inline int shares_of_products(std::int64_t rows, std::int64_t groups, std::int64_t outs, std::int64_t numbers) {
    return shares_of(rows, groups * ((outs + sum_rows - 1) / sum_rows) * ((numbers + 63) / 64));
}

// ---- the sum of all shares ----

// to[a, b, c] = Σ_share from[share, a, b, c], by strides; `to` is dense.
template <class T> struct Merge {
    const float* from;
    T* to;
    std::int64_t share, a, b, c;  // strides of `from`
    int shares, size_b, size_c;
    unsigned count;
};

template <class T> __global__ void merge_shares(Merge<T> p) {
    const unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= p.count) return;
    unsigned rest = place;
    const std::int64_t c = take_digit(rest, p.size_c), b = take_digit(rest, p.size_b), a = rest;
    const float* from = p.from + a * p.a + b * p.b + c * p.c;
    float sum = 0;
    for (int share = 0; share < p.shares; ++share) sum += load(from + share * p.share);
    store(p.to + place, from_float<T>(sum));
}

template <class T> void merge(const char* op, Merge<T> p, std::int64_t count, std::uintptr_t stream) {
    constexpr int threads = 256;
    check_places(count, "parameters have more numbers");
    p.count = static_cast<unsigned>(count);
    if (count > 0) launch({op, blocks_for(count, threads), threads, 0, stream}, merge_shares<T>, p);
}

}  // namespace asma::cuda
