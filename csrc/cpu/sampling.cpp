#include "cpu/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/philox.hpp"

namespace asma::cpu {
namespace {

constexpr std::int64_t block = 16;

// Removes `count` positions by integer weight, without replacement: sets their weights to 0. `sums` holds a sum for
// every `block` of weights, so that a draw need not add up all of them.
void draw(std::int64_t* weights, std::int64_t size, std::int64_t count, std::uint64_t seed, std::uint64_t id,
          Purpose purpose, std::int64_t* sums) {
    std::int64_t total = 0;
    for (std::int64_t b = 0; b * block < size; ++b) {
        const std::int64_t* first = weights + b * block;
        sums[b] = std::accumulate(first, first + std::min(block, size - b * block), std::int64_t{0});
        total += sums[b];
    }
    for (std::int64_t d = 0; d < count; ++d) {
        const auto word = philox(seed, id, static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(purpose)).words[0];
        auto rest = static_cast<std::int64_t>((word * static_cast<std::uint64_t>(total)) >> 32);
        std::int64_t b = 0;
        for (; sums[b] <= rest; ++b) rest -= sums[b];
        std::int64_t position = b * block;
        for (; weights[position] <= rest; ++position) rest -= weights[position];
        total -= weights[position];
        sums[b] -= weights[position];
        weights[position] = 0;
    }
}

// An unsigned integer that orders as the score does, cut to 12 mantissa bits; both zeros alike.
std::uint32_t rank(float score, bool high) {
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    const std::uint32_t magnitude = bits & 0x7FFFF800u;
    const std::uint32_t order = (bits >> 31) == high ? magnitude : 0u - magnitude;
    return order + 0x80000000u;
}

// The largest r with at most `count` ranks below it. Ranks are multiples of 2^11: 21 counts, without a branch on them.
std::uint32_t threshold(const std::uint32_t* ranks, std::int64_t size, std::int64_t count) {
    std::uint32_t result = 0;
    for (int bit = 31; bit >= 11; --bit) {
        const std::uint32_t candidate = result | std::uint32_t{1} << bit;
        std::int32_t below = 0;
        for (std::int64_t t = 0; t < size; ++t) below += ranks[t] < candidate;
        if (below <= count) result = candidate;
    }
    return result;
}

}  // namespace

void integer_weights(const double* weights, std::int64_t joints, std::int64_t* integers) {
    const double largest = *std::max_element(weights, weights + joints);
    for (std::int64_t v = 0; v < joints; ++v)
        integers[v] = weights[v] > 0 ? std::max<std::int64_t>(
                                           1, static_cast<std::int64_t>(std::nearbyint(weights[v] / largest * 65536)))
                                     : 0;
}

void sample_joints(const std::int64_t* integers, std::int64_t joints, std::int64_t drop, std::uint64_t seed,
                   std::uint64_t id, SamplingScratch& scratch, std::int32_t* kept) {
    std::int64_t* weights = scratch.weights.data();
    std::copy(integers, integers + joints, weights);
    draw(weights, joints, drop, seed, id, Purpose::joints, scratch.sums.data());
    // A joint that weighed nothing from the start was never drawn.
    for (std::int64_t v = 0, count = 0; count < joints - drop; ++v) {
        kept[count] = static_cast<std::int32_t>(v);
        count += (weights[v] > 0) | (integers[v] == 0);
    }
}

void sample_frames(const float* scores, std::int64_t frames, std::int64_t drop, bool high, std::int64_t random_drop,
                   std::uint64_t seed, std::uint64_t id, SamplingScratch& scratch, std::int32_t* kept) {
    std::int64_t* remaining = scratch.weights.data();
    std::uint32_t* ranks = scratch.ranks.data();
    for (std::int64_t t = 0; t < frames; ++t) ranks[t] = rank(scores[t], high);
    // Below the threshold all go; of those on it as many as are still wanted, by their keys.
    const std::uint32_t limit = threshold(ranks, frames, drop);
    std::int64_t wanted = drop;
    for (std::int64_t t = 0; t < frames; ++t) {
        remaining[t] = ranks[t] >= limit;
        wanted -= ranks[t] < limit;
    }
    if (wanted > 0) {
        std::vector<std::uint64_t>& keys = scratch.keys;
        keys.clear();
        for (std::int64_t t = 0; t < frames; ++t)
            if (ranks[t] == limit) {
                const auto frame = static_cast<std::uint32_t>(t);
                const auto tie = philox(seed, id, frame, static_cast<std::uint32_t>(Purpose::ties)).words[0];
                keys.push_back(static_cast<std::uint64_t>(tie) << 32 | frame);
            }
        std::nth_element(keys.begin(), keys.begin() + (wanted - 1), keys.end());
        for (std::int64_t i = 0; i < wanted; ++i) remaining[keys[static_cast<std::size_t>(i)] & 0xFFFFFFFFu] = 0;
    }
    draw(remaining, frames, random_drop, seed, id, Purpose::frames, scratch.sums.data());
    for (std::int64_t t = 0, count = 0; count < frames - drop - random_drop; ++t) {
        kept[count] = static_cast<std::int32_t>(t);
        count += remaining[t];
    }
}

SamplingScratch::SamplingScratch(std::int64_t size)
    : weights(static_cast<std::size_t>(size)),
      sums(static_cast<std::size_t>(size / block + 1)),
      ranks(static_cast<std::size_t>(size)) {
    keys.reserve(static_cast<std::size_t>(size));
}

}  // namespace asma::cpu
