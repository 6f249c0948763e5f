// A view's matrix applied to one joint, and its transpose to the joint's gradient.
#pragma once

#include "cpu/simd.hpp"

namespace asma::cpu::ASMA_ISA {

// out[e] = Σ_c transform[e, c] · in[c] over the first `dims` channels; the others pass through. `fixed_dims` and
// `fixed_channels` are the sizes where they are known at compile time, else −1.
template <int fixed_dims = -1, int fixed_channels = -1>
static inline void transform_joint(const real* in, std::int64_t in_stride, real* out, const real* transform,
                                   std::int64_t dims, std::int64_t channels) {
    if constexpr (fixed_dims >= 0) dims = fixed_dims;
    if constexpr (fixed_channels >= 0) channels = fixed_channels;
    for (std::int64_t e = 0; e < dims; ++e) {
        real sum = 0;
        for (std::int64_t c = 0; c < dims; ++c) sum += transform[e * dims + c] * in[c * in_stride];
        out[e] = sum;
    }
    for (std::int64_t c = dims; c < channels; ++c) out[c] = in[c * in_stride];
}

// to[c] += Σ_e transform[e, c] · g[e] over the first `dims` channels; the others pass through.
static inline void add_transposed_joint(const real* g, std::int64_t g_stride, real* to, const real* transform,
                                        std::int64_t dims, std::int64_t channels) {
    for (std::int64_t c = 0; c < dims; ++c) {
        real sum = 0;
        for (std::int64_t e = 0; e < dims; ++e) sum += transform[e * dims + c] * g[e * g_stride];
        to[c] += sum;
    }
    for (std::int64_t c = dims; c < channels; ++c) to[c] += g[c * g_stride];
}

}  // namespace asma::cpu::ASMA_ISA
