// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ASMA_EVERYWHERE __host__ __device__
#else
#define ASMA_EVERYWHERE
#endif

namespace asma {

// The last counter word: what a draw is for. The same table stands in asma_fast/philox.py.
enum class Purpose : std::uint32_t { joints = 0, frames = 1, ties = 2, augmentation = 3, derive = 4, dropout = 256 };

struct Philox4x32 {
    std::uint32_t words[4];
};

// key = seed, counter = (sample id low, high, draw, purpose).
ASMA_EVERYWHERE static inline Philox4x32 philox(std::uint64_t seed, std::uint64_t id, std::uint32_t draw, std::uint32_t purpose) {
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t c0 = static_cast<std::uint32_t>(id), c1 = static_cast<std::uint32_t>(id >> 32), c2 = draw, c3 = purpose;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
        const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ key0;
        const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ key1;
        c1 = static_cast<std::uint32_t>(p1);
        c3 = static_cast<std::uint32_t>(p0);
        c0 = n0;
        c2 = n2;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace asma
