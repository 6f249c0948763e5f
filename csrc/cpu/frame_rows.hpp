// What the layers of a single frame share: columns by slabs, and the rows that lie in one stretch.
#pragma once

#include "cpu/frame_step.hpp"
#include "cpu/packing.hpp"

namespace asma::cpu::ASMA_ISA {

struct Columns {
    std::int64_t begin, end;
};

static inline Columns columns_of(std::int64_t begin, std::int64_t end, std::int64_t columns) {
    const std::int64_t last = end * slab_columns;
    return {begin * slab_columns, last < columns ? last : columns};
}

// Rows `width` apart of the columns of a slab, or of all, padding included: they are then one stretch.
struct Stretch {
    std::int64_t begin, count, rows;
};

static inline Stretch stretch_of(const Columns& range, std::int64_t columns, std::int64_t width, std::int64_t rows) {
    if (range.begin == 0 && range.end == columns) return {0, rows * width, 1};
    return {range.begin, range.end - range.begin, rows};
}

}  // namespace asma::cpu::ASMA_ISA
