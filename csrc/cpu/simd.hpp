// Vectors of `real`, as wide as the instruction set this file is compiled for. GCC's and Clang's vector extensions give
// one source for every width; contraction to FMA is on where the target has it.
//
// CMake compiles each kernel source once per instruction set with
//   ASMA_ISA           the namespace (generic, avx2, avx512, neon, …)
//   ASMA_REAL          float or double
//   ASMA_VECTOR_BYTES  16, 32 or 64
//   ASMA_VECTOR_COUNT  architectural vector registers: 16 or 32
// Nothing here may have external linkage outside that namespace: the linker would keep one instruction set's copy of
// an inline function and use it for all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asma::cpu::ASMA_ISA {

using real = ASMA_REAL;
inline constexpr int lanes = ASMA_VECTOR_BYTES / static_cast<int>(sizeof(real));
inline constexpr int vector_registers = ASMA_VECTOR_COUNT;

typedef real Vec __attribute__((vector_size(ASMA_VECTOR_BYTES), may_alias));
// The same vector at any address a `real` may have.
typedef real VecUnaligned __attribute__((vector_size(ASMA_VECTOR_BYTES), may_alias, aligned(sizeof(real))));

static inline Vec load(const real* from) { return *reinterpret_cast<const VecUnaligned*>(from); }
static inline void store(real* to, Vec value) { *reinterpret_cast<VecUnaligned*>(to) = value; }
static inline Vec broadcast(real value) { return value - Vec{}; }

}  // namespace asma::cpu::ASMA_ISA
