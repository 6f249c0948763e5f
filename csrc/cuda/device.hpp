// A kernel's functions on a device. csrc/cuda/emulation/device.hpp has the same ones for a host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/launch.hpp"

namespace asma::cuda {

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

// The block's shared memory, of as many bytes as the launch asked for.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char asma_shared_memory[];
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

// What the contract wants of values that only the device sees; where it does not hold the kernel stops, and CUDA's next
// call fails. It does not say of what: an assertion that does is a call, before which registers would be spilled.
__device__ inline void require(bool holds, const char*) {
    if (!holds) __trap();
}

__device__ inline void check_index(std::int64_t index, std::int64_t limit, const char* what) {
    require(index >= 0 && index < limit, what);
}

// ---- the host's side ----

// Empty, or why no kernel of this build can run here. Works without a driver: the runtime is linked statically.
inline std::string device_problem() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) return std::string("no CUDA device can be used: ") + cudaGetErrorString(error) + ".";
    if (count == 0) return "there is no CUDA device.";
    return "";
}

template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (how.blocks == 0) return;
    const dim3 grid = how.grid();
    if (how.shared > 48 * 1024)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared));
    kernel<<<grid, how.threads, how.shared, reinterpret_cast<cudaStream_t>(how.stream)>>>(Parameters(arguments)...);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(how.op) + ": cannot run on the device, " + how.text() + ": " +
                                 cudaGetErrorString(error));
}

}  // namespace asma::cuda
