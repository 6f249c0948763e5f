// Which instruction set's kernels serve this process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/int8_block.hpp"
#include "cpu/kernels.hpp"

namespace asma::cpu {

// The table in force: the best this CPU has, or what ASMA_ISA or set_instruction_set() asked for. float64 has one
// build, generic.
template <class Real> const KernelTable<Real>& kernels();
template <> const KernelTable<float>& kernels<float>();
template <> const KernelTable<double>& kernels<double>();

// The same for a convolution whose result has so many columns (channels of a group): AVX2's kernels serve avx512 up to
// eight, where half of its lanes would be idle.
template <class Real> const KernelTable<Real>& kernels(std::int64_t columns);
template <> const KernelTable<float>& kernels<float>(std::int64_t columns);
template <> const KernelTable<double>& kernels<double>(std::int64_t columns);

// Those of int8 inference. avxvnni, avx512vnni and neon_dotprod differ from avx2, avx512 and neon in these alone.
const Int8Kernels& int8_kernels();

const char* instruction_set();
std::vector<std::string> available_instruction_sets();  // best last
void set_instruction_set(const std::string& name);       // std::invalid_argument if this CPU or build lacks it

}  // namespace asma::cpu
