#include "cpu/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/philox.hpp"

namespace asma::cpu {
namespace {

// Removes `count` positions by integer weight, without replacement: sets their weights to 0.
void draw(std::int64_t* weights, std::int64_t size, std::int64_t count, std::uint64_t seed, std::uint64_t id,
          Purpose purpose) {
    std::int64_t total = std::accumulate(weights, weights + size, std::int64_t{0});
    for (std::int64_t d = 0; d < count; ++d) {
        const auto word = philox(seed, id, static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(purpose)).words[0];
        const auto threshold = static_cast<std::int64_t>((word * static_cast<std::uint64_t>(total)) >> 32);
        std::int64_t position = 0;
        for (std::int64_t sum = weights[0]; sum <= threshold; sum += weights[position]) ++position;
        total -= weights[position];
        weights[position] = 0;
    }
}

// An integer that orders as the score does, cut to 12 mantissa bits; both zeros alike.
std::int64_t rank(float score) {
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    const auto magnitude = static_cast<std::int64_t>(bits & 0x7FFFF800u);
    return bits >> 31 ? -magnitude : magnitude;
}

}  // namespace

void sample_joints(const double* weights, std::int64_t joints, std::int64_t drop, std::uint64_t seed, std::uint64_t id,
                   std::int64_t* scratch, std::int32_t* kept) {
    const double largest = *std::max_element(weights, weights + joints);
    for (std::int64_t v = 0; v < joints; ++v)
        scratch[v] = weights[v] > 0 ? std::max<std::int64_t>(
                                          1, static_cast<std::int64_t>(std::nearbyint(weights[v] / largest * 65536)))
                                    : 0;
    draw(scratch, joints, drop, seed, id, Purpose::joints);
    // A joint that weighed nothing from the start was never drawn.
    for (std::int64_t v = 0; v < joints; ++v)
        if (scratch[v] > 0 || !(weights[v] > 0)) *kept++ = static_cast<std::int32_t>(v);
}

void sample_frames(const float* scores, std::int64_t frames, std::int64_t drop, bool high, std::int64_t random_drop,
                   std::uint64_t seed, std::uint64_t id, RankedFrame* scratch, std::int64_t* remaining,
                   std::int32_t* kept) {
    for (std::int64_t t = 0; t < frames; ++t) {
        const std::int64_t value = high ? -rank(scores[t]) : rank(scores[t]);
        const auto tie =
            philox(seed, id, static_cast<std::uint32_t>(t), static_cast<std::uint32_t>(Purpose::ties)).words[0];
        // Shifted to be unsigned: ranks lie within 32 bits.
        scratch[t] = {static_cast<std::uint64_t>(value + (std::int64_t{1} << 31)) << 32 | tie, t};
        remaining[t] = 1;
    }
    std::sort(scratch, scratch + frames, [](const RankedFrame& a, const RankedFrame& b) {
        return a.key != b.key ? a.key < b.key : a.frame < b.frame;
    });
    for (std::int64_t i = 0; i < drop; ++i) remaining[scratch[i].frame] = 0;
    draw(remaining, frames, random_drop, seed, id, Purpose::frames);
    for (std::int64_t t = 0; t < frames; ++t)
        if (remaining[t]) *kept++ = static_cast<std::int32_t>(t);
}

}  // namespace asma::cpu
