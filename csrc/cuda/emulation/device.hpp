// A device on the host, for tests: the functions of csrc/cuda/device.hpp.
//
// A block's threads are fibers of one system thread; which runs next after a barrier a seeded generator says. Blocks
// run one after the other, in an order drawn alike. ThreadSanitizer is told of each fiber, and of what a barrier
// orders, so that it reports races between threads of a block and between blocks; AddressSanitizer is told of their
// stacks. Loads and stores of global memory are counted.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/launch.hpp"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define ASMA_ROLLED
#define ASMA_UNROLLED

namespace asma::cuda {

struct Place {
    unsigned x = 0, y = 0, z = 0;
};

// Of the fiber that runs; the scheduler sets them.
extern Place threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Bytes of global memory since the last time.
struct Traffic {
    std::uint64_t loaded = 0, stored = 0;
};

void reseed(std::uint64_t seed);
Traffic take_traffic();
void count(std::uint64_t loaded, std::uint64_t stored);
void run(const Launch& how, const std::function<void()>& thread);
unsigned char* shared_memory();
void barrier(bool of_block, bool orders_memory);
// Every lane of the warp gives a word; each gets the one of `lane`.
std::uint64_t exchange(std::uint64_t word, int lane);

}  // namespace emulation

// ---- half precisions: storage alone ----

struct half {
    std::uint16_t bits;
};

struct bfloat16 {
    std::uint16_t bits;
};

float widen(half value);
half narrow_half(float value);
bfloat16 narrow_bfloat16(float value);

// ---- memory ----

template <class T> inline T load(const T* from) {
    emulation::count(sizeof(T), 0);
    return *from;
}

// Of an address that a whole warp reads at once.
template <class T> inline T load_uniform(const T* from) {
    emulation::count(threadIdx.x % warp_size == 0 ? sizeof(T) : 0, 0);
    return *from;
}

template <class T> inline void store(T* to, T value) {
    emulation::count(0, sizeof(T));
    *to = value;
}

template <class T> inline void add_atomically(T* to, T value) {
    emulation::count(sizeof(T), sizeof(T));
    static_assert(std::is_integral_v<T>, "sums of floats depend on their order");
    __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

inline unsigned char* shared_memory() {
    return emulation::shared_memory();
}

// Four successive numbers of shared memory, aligned to 16 bytes.
inline void load_four(const float* from, float (&to)[4]) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16) throw std::logic_error("four numbers must be aligned to 16 bytes");
    for (int i = 0; i < 4; ++i) to[i] = from[i];
}

// ---- numbers ----

template <class T> inline float to_float(T value) {
    if constexpr (std::is_same_v<T, half>)
        return widen(value);
    else if constexpr (std::is_same_v<T, bfloat16>)
        return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
    else
        return static_cast<float>(value);
}

template <class T> inline T from_float(float value) {
    if constexpr (std::is_same_v<T, half>)
        return narrow_half(value);
    else if constexpr (std::is_same_v<T, bfloat16>)
        return narrow_bfloat16(value);
    else
        return static_cast<T>(value);
}

inline double multiply(double a, double b) {
    return a * b;
}

inline double add(double a, double b) {
    return a + b;
}

inline double fused(double a, double b, double c) {
    return std::fma(a, b, c);
}

inline float subtract(float a, float b) {
    return a - b;
}

inline double nearest(double value) {
    return std::nearbyint(value);
}

inline std::uint32_t bits_of(float value) {
    return std::bit_cast<std::uint32_t>(value);
}

inline float float_of(std::uint32_t bits) {
    return std::bit_cast<float>(bits);
}

// ---- a block's threads ----

inline void block_barrier() {
    emulation::barrier(true, true);
}

inline void warp_barrier() {
    emulation::barrier(false, true);
}

template <class T> inline T shuffle(T value, int lane) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    word = emulation::exchange(word, lane);
    std::memcpy(&value, &word, sizeof value);
    return value;
}

template <class T> inline T shuffle_xor(T value, int mask) {
    return shuffle(value, static_cast<int>(threadIdx.x % warp_size) ^ mask);
}

inline std::uint32_t ballot(bool vote) {
    std::uint32_t votes = 0;
    for (int lane = 0; lane < warp_size; ++lane) votes |= static_cast<std::uint32_t>(shuffle(vote, lane)) << lane;
    return votes;
}

inline int count_bits(std::uint32_t bits) {
    return std::popcount(bits);
}

inline int lowest_bit(std::uint32_t bits) {
    return std::countr_zero(bits);
}

}  // namespace asma::cuda

#include "cuda/software_mma.hpp"

namespace asma::cuda {

// ---- tensor cores ----

struct tf32;

template <class Number> struct MmaNumber {
    using Storage = Number;
    static Storage round(float value) { return from_float<Number>(value); }
};

template <> struct MmaNumber<tf32> {
    using Storage = float;
    static Storage round(float value) { return round_to_tf32(value); }
};

template <class Number> struct MmaSums {
    using Storage = typename MmaNumber<Number>::Storage;
    SoftwareSums sums;

    void clear() { sums = {}; }
    void write(float* to, int row) const { write_software(sums, to, row); }

    template <bool left_by_depth, int count> static void multiply(MmaSums (&all)[count], const Storage* left,
                                                                  int left_row, const Storage* right, int right_row) {
        for (int i = 0; i < count; ++i)
            multiply_software<left_by_depth>(all[i].sums, left, left_row, right + 16 * i, right_row);
    }
};

inline void require(bool holds, const char* wanted) {
    if (!holds) throw std::invalid_argument(wanted);
}

inline void check_index(std::int64_t index, std::int64_t limit, const char* what) {
    if (index < 0 || index >= limit)
        throw std::invalid_argument(std::string(what) + " must lie in [0, " + std::to_string(limit) + "), got " +
                                    std::to_string(index));
}

// ---- the host's side ----

inline std::string driver_problem() {
    return "";
}

template <class... Parameters> std::string kernel_problem(void (*)(Parameters...)) {
    return "";
}

template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (how.blocks == 0) return;
    emulation::run(how, [&] { kernel(Parameters(arguments)...); });
}

}  // namespace asma::cuda
