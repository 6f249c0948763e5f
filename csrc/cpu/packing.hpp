// What a caller must know of packed weights (cpu/micro_kernel.hpp) without knowing the instruction set.
#pragma once

#include <cstdint>

namespace asma::cpu {

// A whole number of panels for every instruction set: the unit in which columns may be shared out.
constexpr std::int64_t slab_columns = 32;

static constexpr std::int64_t slabs(std::int64_t columns) { return (columns + slab_columns - 1) / slab_columns; }

// Columns to allocate for, padding included: the widest vector has 16 lanes.
static constexpr std::int64_t packed_columns(std::int64_t columns) { return (columns + 15) / 16 * 16; }

}  // namespace asma::cpu
