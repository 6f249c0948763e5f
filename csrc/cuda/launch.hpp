// How a kernel is started.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace asma::cuda {

inline constexpr int warp_size = 32;

// Blocks in a row, each of `threads`; a kernel that has more work strides over it by the whole grid.
struct Launch {
    static constexpr std::int64_t most_blocks = (std::int64_t{1} << 31) - 1;

    const char* op;
    std::int64_t blocks;
    int threads;
    std::size_t shared;     // bytes of a block
    std::uintptr_t stream;  // torch's current one

    unsigned grid() const {
        if (blocks < 0 || blocks > most_blocks)
            throw std::length_error(std::string(op) + ": must be at most " + std::to_string(most_blocks) +
                                    " blocks of threads, got " + std::to_string(blocks));
        return static_cast<unsigned>(blocks);
    }

    std::string text() const {
        return std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads and " +
               std::to_string(shared) + " bytes of shared memory";
    }
};

// Blocks of `threads` for so many items, or as many as there may be: kernels then stride.
constexpr std::int64_t blocks_for(std::int64_t items, int threads) {
    const std::int64_t blocks = items / threads + (items % threads != 0);
    return blocks < Launch::most_blocks ? blocks : Launch::most_blocks;
}

}  // namespace asma::cuda
