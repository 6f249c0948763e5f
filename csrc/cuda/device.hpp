// A kernel's functions on a device. csrc/cuda/emulation/device.hpp has the same ones for a host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/launch.hpp"

namespace asma::cuda {

// Before a loop whose body is long: unrolled, it would need more registers than there are. Before a loop over an array
// that is to stay in registers.
#define ASMA_ROLLED _Pragma("unroll 1")
#define ASMA_UNROLLED _Pragma("unroll")

using half = __half;
using bfloat16 = __nv_bfloat16;

// ---- memory ----

template <class T> __device__ inline T load(const T* from) {
    return *from;
}

// Of an address that a whole warp reads at once.
template <class T> __device__ inline T load_uniform(const T* from) {
    return *from;
}

template <class T> __device__ inline void store(T* to, T value) {
    *to = value;
}

template <class T> __device__ inline void add_atomically(T* to, T value) {
    atomicAdd(to, value);
}

// Four successive numbers of shared memory, aligned to 16 bytes.
__device__ inline void load_four(const float* from, float (&to)[4]) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// The block's shared memory, of as many bytes as the launch asked for.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char asma_shared_memory[];
    return asma_shared_memory;
}

// ---- numbers: all arithmetic is float's or wider ----

template <class T> __device__ inline float to_float(T value) {
    return static_cast<float>(value);
}

template <class T> __device__ inline T from_float(float value) {
    return static_cast<T>(value);
}

// Rounded each, never fused: scores decide masks, which must be the same everywhere.
__device__ inline double multiply(double a, double b) {
    return __dmul_rn(a, b);
}

__device__ inline double add(double a, double b) {
    return __dadd_rn(a, b);
}

__device__ inline double fused(double a, double b, double c) {
    return __fma_rn(a, b, c);
}

__device__ inline float subtract(float a, float b) {
    return __fsub_rn(a, b);
}

__device__ inline double nearest(double value) {
    return rint(value);
}

__device__ inline std::uint32_t bits_of(float value) {
    return __float_as_uint(value);
}

__device__ inline float float_of(std::uint32_t bits) {
    return __uint_as_float(bits);
}

// ---- a block's threads ----

__device__ inline void block_barrier() {
    __syncthreads();
}

// Of all threads of a warp: memory is ordered.
__device__ inline void warp_barrier() {
    __syncwarp();
}

template <class T> __device__ inline T shuffle(T value, int lane) {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
}

template <class T> __device__ inline T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

__device__ inline std::uint32_t ballot(bool vote) {
    return __ballot_sync(0xFFFFFFFFu, vote);
}

__device__ inline int count_bits(std::uint32_t bits) {
    return __popc(bits);
}

// Of bits that are not all 0.
__device__ inline int lowest_bit(std::uint32_t bits) {
    return __ffs(static_cast<int>(bits)) - 1;
}

}  // namespace asma::cuda

#include "cuda/software_mma.hpp"

namespace asma::cuda {

// ---- tensor cores: a warp's 16 × 16 sums of products of numbers in shared memory, 16 deep ----

struct tf32;  // float32 of which 10 bits of mantissa are multiplied

template <class Number> struct MmaNumber {
    using Storage = Number;
    using Fragment = Number;
    static constexpr int depth = 16, since = std::is_same_v<Number, half> ? 700 : 800;
    __device__ static Storage round(float value) { return static_cast<Number>(value); }
};

template <> struct MmaNumber<tf32> {
    using Storage = float;
    static constexpr int depth = 8, since = 800;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    __device__ static Storage round(float value) { return round_to_tf32(value); }
#else
    using Fragment = nvcuda::wmma::precision::tf32;
    __device__ static Storage round(float value) { return nvcuda::wmma::__float_to_tf32(value); }
#endif
};

#if defined(__CUDA_ARCH__)
inline constexpr int compiled_for = __CUDA_ARCH__;
#else
inline constexpr int compiled_for = 800;  // the host's pass
#endif

template <class Number, bool has = compiled_for >= MmaNumber<Number>::since> struct MmaSums {
    using Storage = typename MmaNumber<Number>::Storage;
    static constexpr int depth = MmaNumber<Number>::depth;
    nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, depth, float> sums;

    __device__ void clear() { nvcuda::wmma::fill_fragment(sums, 0.0f); }

    __device__ void write(float* to, int row) const {
        nvcuda::wmma::store_matrix_sync(to, sums, static_cast<unsigned>(row), nvcuda::wmma::mem_row_major);
    }

    // To `count` neighbours along the columns, which read the same left side.
    template <bool left_by_depth, int count> __device__ static void multiply(MmaSums (&all)[count], const Storage* left,
                                                                             int left_row, const Storage* right,
                                                                             int right_row) {
        using namespace nvcuda::wmma;
        using Fragment = typename MmaNumber<Number>::Fragment;
        using Layout = std::conditional_t<left_by_depth, col_major, row_major>;
        for (int c = 0; c < 16; c += depth) {
            fragment<matrix_a, 16, 16, depth, Fragment, Layout> a;
            load_matrix_sync(a, left + (left_by_depth ? c * left_row : c), static_cast<unsigned>(left_row));
            ASMA_UNROLLED
            for (int i = 0; i < count; ++i) {
                fragment<matrix_b, 16, 16, depth, Fragment, row_major> b;
                load_matrix_sync(b, right + c * right_row + 16 * i, static_cast<unsigned>(right_row));
                mma_sync(all[i].sums, a, b, all[i].sums);
            }
        }
    }
};

template <class Number> struct MmaSums<Number, false> {
    using Storage = typename MmaNumber<Number>::Storage;
    SoftwareSums sums;

    __device__ void clear() { sums = {}; }
    __device__ void write(float* to, int row) const { write_software(sums, to, row); }

    template <bool left_by_depth, int count> __device__ static void multiply(MmaSums (&all)[count], const Storage* left,
                                                                             int left_row, const Storage* right,
                                                                             int right_row) {
        ASMA_UNROLLED
        for (int i = 0; i < count; ++i)
            multiply_software<left_by_depth>(all[i].sums, left, left_row, right + 16 * i, right_row);
    }
};

// What the contract wants of values that only the device sees; where it does not hold the kernel stops, and CUDA's next
// call fails. It does not say of what: an assertion that does is a call, before which registers would be spilled.
__device__ inline void require(bool holds, const char*) {
    if (!holds) __trap();
}

__device__ inline void check_index(std::int64_t index, std::int64_t limit, const char* what) {
    require(index >= 0 && index < limit, what);
}

// ---- the host's side ----

// Empty, or why no device can be used. Works without a driver: the runtime is linked statically.
inline std::string driver_problem() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return std::string("no CUDA device can be used: ") + cudaGetErrorString(error) + ".";
    if (count == 0) return "there is no CUDA device.";
    return "";
}

// Empty, or why this build's kernels, of which `kernel` is one, cannot run on the current device.
template <class... Parameters> std::string kernel_problem(void (*kernel)(Parameters...)) {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaSuccess) return "";
    cudaGetLastError();  // it is told here, not by the next launch
    return std::string("the CUDA kernels were not built for this device: ") + cudaGetErrorString(error) + ".";
}

// More shared memory than a block has unasked: the device's most is asked for, the same by every host thread.
template <class... Parameters> void allow_shared_memory(const Launch& how, void (*kernel)(Parameters...)) {
    constexpr std::size_t unasked = 48 * 1024;
    if (how.shared <= unasked) return;
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess && how.shared > static_cast<std::size_t>(most))
        throw std::length_error(std::string(how.op) + ": must be at most " + std::to_string(most) +
                                " bytes of shared memory on this device, got " + how.text());
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(how.op) + ": cannot run on the device, " + how.text() + ": " +
                                 cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (how.blocks == 0) return;
    const dim3 grid = how.grid();
    allow_shared_memory(how, kernel);
    kernel<<<grid, how.threads, how.shared, reinterpret_cast<cudaStream_t>(how.stream)>>>(Parameters(arguments)...);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(how.op) + ": cannot run on the device, " + how.text() + ": " +
                                 cudaGetErrorString(error));
}

}  // namespace asma::cuda
