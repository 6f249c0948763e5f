// Products that a block of 256 threads sums, sixteen numbers deep at a time, from what it laid out in shared memory: by
// multiply-adds in float32, or by tensor cores.
#pragma once

#include <algorithm>

#include "cuda/runtime.hpp"

namespace asma::cuda {

inline constexpr int product_threads = 256, product_depth = 16;
inline constexpr int scratch_row = 20;  // of 16 sums: rows begin in other banks

// A product (rows, columns). The left side lies as (rows, 16), or, by depth, as (16, left_row); the right one as
// (16, right_row). Number: float, or tf32, half, bfloat16 for tensor cores.
template <class Number, int rows_, int columns_, bool left_by_depth = false> class Product {
public:
    using Storage = typename MmaNumber<Number>::Storage;
    static constexpr int rows = rows_, columns = columns_;
    static constexpr int left_row = left_by_depth ? rows + 8 : product_depth, right_row = columns + 8;
    static constexpr int left_numbers = left_by_depth ? product_depth * left_row : rows * left_row;
    static constexpr int right_numbers = product_depth * right_row;
    static constexpr int scratch_bytes = product_threads / warp_size * 16 * scratch_row * int{sizeof(float)};

    __device__ static Storage round(float value) { return MmaNumber<Number>::round(value); }

    __device__ void clear() {
        ASMA_UNROLLED
        for (auto& one : sums_) one.clear();
    }

    __device__ void multiply(const Storage* left, const Storage* right) {
        if (!works()) return;
        const Storage* from = left + (left_by_depth ? row() : row() * left_row);
        MmaSums<Number>::template multiply<left_by_depth>(sums_, from, left_row, right + column(), right_row);
    }

    // Calls take(row, column, sum) for every place, by way of `scratch`. Of all threads, which may have it no more in
    // use; it is free again when all are through.
    template <class Take> __device__ void finish(float* scratch, const Take& take) const {
        if (!works()) return;
        const int lane = static_cast<int>(threadIdx.x) % warp_size;
        float* own = scratch + warp() * 16 * scratch_row;
        ASMA_UNROLLED
        for (int i = 0; i < each; ++i) {
            sums_[i].write(own, scratch_row);
            warp_barrier();
            for (int place = lane; place < 16 * 16; place += warp_size)
                take(row() + place / 16, column() + 16 * i + place % 16, own[place / 16 * scratch_row + place % 16]);
            warp_barrier();
        }
    }

private:
    // A warp has `each` of the 16 × 16 parts, neighbours in a row; the last warps may have none.
    static constexpr int warps = product_threads / warp_size, parts = rows / 16 * (columns / 16);
    static constexpr int each = parts < warps ? 1 : parts / warps, across = columns / 16;
    static_assert(across % each == 0 && (parts < warps || parts % warps == 0));

    __device__ static int warp() { return static_cast<int>(threadIdx.x) / warp_size; }
    __device__ static bool works() { return warp() * each < parts; }
    __device__ static int row() { return warp() * each / across * 16; }
    __device__ static int column() { return warp() * each % across * 16; }

    MmaSums<Number> sums_[each];
};

// Each thread has rows / 16 × columns / 16 places.
template <int rows_, int columns_, bool left_by_depth> class Product<float, rows_, columns_, left_by_depth> {
public:
    using Storage = float;
    static constexpr int rows = rows_, columns = columns_;
    static constexpr int left_row = left_by_depth ? rows + 8 : product_depth, right_row = columns + 8;
    static constexpr int left_numbers = left_by_depth ? product_depth * left_row : rows * left_row;
    static constexpr int right_numbers = product_depth * right_row;
    static constexpr int scratch_bytes = 0;

    __device__ static float round(float value) { return value; }

    __device__ void clear() {
        ASMA_UNROLLED
        for (auto& own : sums_) {
            ASMA_UNROLLED
            for (float& sum : own) sum = 0;
        }
    }

    __device__ void multiply(const float* left, const float* right) {
        const float* from = left + (left_by_depth ? row() : row() * left_row);
        const float* with = right + column();
        ASMA_ROLLED
        for (int begin = 0; begin < product_depth; begin += 4) {
            float b[4][wide];
            ASMA_UNROLLED
            for (int c = 0; c < 4; ++c) load_columns(with + (begin + c) * right_row, b[c]);
            ASMA_UNROLLED
            for (int step = 0; step < (left_by_depth ? 4 : high); ++step) {
                float a[4];  // of a row four depths, or of a depth four rows
                load_four(left_by_depth ? from + (begin + step) * left_row : from + step * left_row + begin, a);
                ASMA_UNROLLED
                for (int other = 0; other < 4; ++other) {
                    const int i = left_by_depth ? other : step, c = left_by_depth ? step : other;
                    ASMA_UNROLLED
                    for (int j = 0; j < wide; ++j) sums_[i][j] += a[other] * b[c][j];
                }
            }
        }
    }

    template <class Take> __device__ void finish(float*, const Take& take) const {
        ASMA_UNROLLED
        for (int i = 0; i < high; ++i) {
            ASMA_UNROLLED
            for (int j = 0; j < wide; ++j) take(row() + i, column() + j, sums_[i][j]);
        }
    }

private:
    static constexpr int high = rows / 16, wide = columns / 16;
    static_assert(!left_by_depth || high == 4);

    __device__ static int row() { return static_cast<int>(threadIdx.x) / 16 * high; }
    __device__ static int column() { return static_cast<int>(threadIdx.x) % 16 * wide; }

    __device__ static void load_columns(const float* from, float (&to)[wide]) {
        if constexpr (wide == 4) {
            load_four(from, to);
        } else {
            ASMA_UNROLLED
            for (int j = 0; j < wide; ++j) to[j] = from[j];
        }
    }

    float sums_[high][wide];
};

// Parts of a block's shared memory, one after the other.
class SharedPlan {
public:
    // Where so many bytes begin.
    int take(std::int64_t bytes) {
        const std::int64_t begin = total_;
        total_ += (bytes + alignment - 1) / alignment * alignment;
        return static_cast<int>(begin);
    }
    std::size_t total() const { return static_cast<std::size_t>(total_); }

private:
    static constexpr std::int64_t alignment = 128;
    std::int64_t total_ = 0;
};

template <class T> __device__ inline T* shared_at(int begin) {
    return reinterpret_cast<T*>(shared_memory() + begin);
}

// The right side of a product: from[column, depth], by strides, for so many columns and depths, zeros beyond.
template <class Tile, class T> __device__ inline void lay_out_right(const T* from, std::int64_t of_column,
                                                                    std::int64_t of_depth, int columns, int depths,
                                                                    typename Tile::Storage* right) {
    ASMA_ROLLED
    for (int at = static_cast<int>(threadIdx.x); at < Tile::columns * product_depth; at += product_threads) {
        const int column = at / product_depth, depth = at % product_depth;
        const bool there = column < columns && depth < depths;
        right[depth * Tile::right_row + column] =
            Tile::round(there ? to_float(load(from + column * of_column + depth * of_depth)) : 0);
    }
}

// Calls body with the type that products of T are made in, and, as a constant, the narrowest columns that hold so many.
template <class T, class Body> void with_product(bool use_tf32, std::int64_t columns, Body&& body) {
    const auto with_columns = [&](auto number) {
        if (columns <= 16)
            body(number, std::integral_constant<int, 16>{});
        else if (columns <= 32)
            body(number, std::integral_constant<int, 32>{});
        else
            body(number, std::integral_constant<int, 64>{});
    };
    if constexpr (std::is_same_v<T, float>) {
        if (use_tf32)
            with_columns(static_cast<tf32*>(nullptr));
        else
            with_columns(static_cast<float*>(nullptr));
    } else {
        with_columns(static_cast<T*>(nullptr));
    }
}

}  // namespace asma::cuda
