#pragma once

#include <cstdint>

namespace asma::cpu {

// Integer work without vectors, so compiled once. Both write the kept positions of one clip, ascending.

// weights (V,): finite, not negative, at least max(drop, 1) of them positive. scratch holds V.
void sample_joints(const double* weights, std::int64_t joints, std::int64_t drop, std::uint64_t seed, std::uint64_t id,
                   std::int64_t* scratch, std::int32_t* kept);

struct RankedFrame {
    std::uint64_t key;
    std::int64_t frame;
};

// scores (T,): no NaN. scratch and remaining hold T each.
void sample_frames(const float* scores, std::int64_t frames, std::int64_t drop, bool high, std::int64_t random_drop,
                   std::uint64_t seed, std::uint64_t id, RankedFrame* scratch, std::int64_t* remaining,
                   std::int32_t* kept);

}  // namespace asma::cpu
