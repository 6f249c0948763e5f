#pragma once

#include <cstdint>

namespace asma::cpu {

inline constexpr std::int64_t dropout_piece = 4096;  // elements of one work item, a multiple of any kernel's step

// x, out: N samples of `size` elements each, dense. Work items are pieces of samples: n·pieces + piece, where a sample
// has pieces = ⌈size / dropout_piece⌉.
template <class Real> struct DropoutParams {
    const Real* x;
    Real* out;
    const std::int64_t* ids;  // (N,)
    std::int64_t size, pieces;
    std::uint64_t seed;
    std::uint32_t purpose, cut;
    Real scale;
};

}  // namespace asma::cpu
