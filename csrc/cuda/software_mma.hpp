// What tensor cores compute, without them: for an emulated device, and for numbers that a device's own do not take.
// Each of a warp's threads has eight successive sums of 16 × 16.
#pragma once

namespace asma::cuda {

// To 10 bits of mantissa, ties away from zero.
__device__ inline float round_to_tf32(float value) {
    const bool finite = (bits_of(value) & 0x7F800000u) != 0x7F800000u;
    return finite ? float_of((bits_of(value) + 0x1000u) & 0xFFFFE000u) : value;
}

struct SoftwareSums {
    float values[8];
};

// left (16, 16), right (16, 16); left's rows may be its columns in memory.
template <bool left_by_depth, class Storage>
__device__ inline void multiply_software(SoftwareSums& sums, const Storage* left, int left_row, const Storage* right,
                                         int right_row) {
    const int first = static_cast<int>(threadIdx.x % warp_size) * 8, row = first / 16;
    for (int c = 0; c < 16; ++c) {
        const float a = to_float(left_by_depth ? left[c * left_row + row] : left[row * left_row + c]);
        ASMA_UNROLLED
        for (int i = 0; i < 8; ++i) sums.values[i] += a * to_float(right[c * right_row + first % 16 + i]);
    }
}

__device__ inline void write_software(const SoftwareSums& sums, float* to, int row) {
    const int first = static_cast<int>(threadIdx.x % warp_size) * 8;
    ASMA_UNROLLED
    for (int i = 0; i < 8; ++i) to[first / 16 * row + first % 16 + i] = sums.values[i];
}

}  // namespace asma::cuda
