#pragma once

#include <cstdint>
#include <vector>

namespace asma::cpu {

// Integer work without vectors, so compiled once. Both write the kept positions of one clip, ascending.

// One thread's working memory for `size` joints or frames.
struct SamplingScratch {
    explicit SamplingScratch(std::int64_t size);

    std::vector<std::int64_t> weights, sums;
    std::vector<std::uint32_t> ranks;
    std::vector<std::uint64_t> keys;
};

// weights (V,): finite, not negative, one of them positive.
void integer_weights(const double* weights, std::int64_t joints, std::int64_t* integers);

// integers (V,): at least `drop` of them positive.
void sample_joints(const std::int64_t* integers, std::int64_t joints, std::int64_t drop, std::uint64_t seed,
                   std::uint64_t id, SamplingScratch& scratch, std::int32_t* kept);

// scores (T,): no NaN.
void sample_frames(const float* scores, std::int64_t frames, std::int64_t drop, bool high, std::int64_t random_drop,
                   std::uint64_t seed, std::uint64_t id, SamplingScratch& scratch, std::int32_t* kept);

}  // namespace asma::cpu
