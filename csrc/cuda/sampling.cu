// Which joints and frames a view keeps: a warp has a clip. Integers throughout, and the words of the same generator as
// on the CPU, so that masks are the same to the position (asma_fast/ops/sampling.py has the rules).
#include "core/philox.hpp"
#include "cuda/arrays.hpp"

namespace asma::cuda {
namespace {

constexpr int threads = warp_size;
constexpr std::size_t most_shared = 48 * 1024;  // of every device, unasked

__device__ inline std::uint32_t word_of(std::uint64_t seed, std::uint64_t id, std::uint32_t draw, Purpose purpose) {
    return philox(seed, id, draw, static_cast<std::uint32_t>(purpose)).words[0];
}

__device__ inline std::uint64_t sum_over_warp(std::uint64_t value) {
    for (int mask = warp_size / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// Of the lanes before this one.
__device__ inline std::uint64_t sum_before(std::uint64_t value, int lane) {
    std::uint64_t sum = value;
    for (int step = 1; step < warp_size; step *= 2) {
        const std::uint64_t other = shuffle(sum, lane < step ? lane : lane - step);
        if (lane >= step) sum += other;
    }
    return sum - value;
}

// A lane's share of `size` positions that lie in a row.
struct Share {
    std::int64_t begin, end;
};

__device__ inline Share share_of(std::int64_t size, int lane) {
    const std::int64_t each = (size + warp_size - 1) / warp_size, begin = each * lane;
    return {begin < size ? begin : size, begin + each < size ? begin + each : size};
}

// Removes `count` positions by integer weight, without replacement: sets their weights to 0.
__device__ inline void draw(std::uint32_t* weights, std::int64_t size, std::int64_t count, std::uint64_t seed,
                            std::uint64_t id, Purpose purpose, int lane) {
    const Share share = share_of(size, lane);
    std::uint64_t own = 0;
    for (std::int64_t i = share.begin; i < share.end; ++i) own += weights[i];
    std::uint64_t total = sum_over_warp(own);
    for (std::int64_t d = 0; d < count; ++d) {
        const std::uint64_t word = word_of(seed, id, static_cast<std::uint32_t>(d), purpose);
        const std::uint64_t place = word * total >> 32, before = sum_before(own, lane);
        const bool mine = before <= place && place < before + own;
        std::uint32_t taken = 0;
        if (mine) {
            std::uint64_t rest = place - before;
            std::int64_t i = share.begin;
            for (; weights[i] <= rest; ++i) rest -= weights[i];
            taken = weights[i];
            weights[i] = 0;
            own -= taken;
        }
        total -= shuffle(taken, lowest_bit(ballot(mine)));
    }
}

// The positions for which stays(i), in order.
template <class Stays> __device__ inline void write_kept(std::int64_t size, std::int64_t count, int lane,
                                                         std::int32_t* kept, const Stays& stays) {
    std::int64_t written = 0;
    for (std::int64_t base = 0; base < size; base += warp_size) {
        const bool stay = base + lane < size && stays(base + lane);
        const std::uint32_t votes = ballot(stay);
        const std::int64_t place = written + count_bits(votes & ((std::uint32_t{1} << lane) - 1));
        if (stay && place < count) store(kept + place, static_cast<std::int32_t>(base + lane));
        written += count_bits(votes);
    }
}

__global__ void __launch_bounds__(threads)
    keep_joints(const double* weights, std::int64_t weights_stride, std::int64_t clips, std::int64_t joints,
                std::int64_t drop, const std::int64_t* seed, const std::int64_t* ids, std::int32_t* kept) {
    auto* integers = reinterpret_cast<std::uint32_t*>(shared_memory());
    const int lane = static_cast<int>(threadIdx.x);
    const auto key = static_cast<std::uint64_t>(load(seed));
    for (std::int64_t n = blockIdx.x; n < clips; n += gridDim.x) {
        const double* own = weights + n * weights_stride;
        double largest = 0;
        std::uint64_t positive = 0;
        for (std::int64_t v = lane; v < joints; v += warp_size) {
            const double weight = load(own + v);
            require(weight >= 0 && weight <= 1.7976931348623157e308, "weights must be finite and not negative");
            largest = weight > largest ? weight : largest;
            positive += weight > 0;
        }
        for (int mask = warp_size / 2; mask > 0; mask /= 2) {
            const double other = shuffle_xor(largest, mask);
            largest = other > largest ? other : largest;
        }
        positive = sum_over_warp(positive);
        require(positive > 0, "weights must not all be zero");
        require(positive >= static_cast<std::uint64_t>(drop), "drop must be at most the number of positive weights");
        for (std::int64_t v = lane; v < joints; v += warp_size) {
            const double weight = load(own + v);
            const double scaled = nearest(multiply(weight / largest, 65536));
            integers[v] = weight > 0 ? (scaled > 1 ? static_cast<std::uint32_t>(scaled) : 1) : 0;
        }
        warp_barrier();
        draw(integers, joints, drop, key, static_cast<std::uint64_t>(load(ids + n)), Purpose::joints, lane);
        warp_barrier();
        // A joint that weighed nothing from the start was never drawn.
        write_kept(joints, joints - drop, lane, kept + n * (joints - drop),
                   [&](std::int64_t v) { return integers[v] > 0 || load(own + v) == 0; });
        warp_barrier();
    }
}

// An unsigned integer that orders as the score does, cut to 12 mantissa bits; both zeros alike.
__device__ inline std::uint32_t rank_of(float score, bool high) {
    const std::uint32_t bits = bits_of(score), magnitude = bits & 0x7FFFF800u;
    return ((bits >> 31 != 0) == high ? magnitude : 0u - magnitude) + 0x80000000u;
}

__global__ void __launch_bounds__(threads)
    keep_frames(const float* scores, std::int64_t clips, std::int64_t frames, std::int64_t drop, bool high,
                std::int64_t random_drop, const std::int64_t* seed, const std::int64_t* ids, std::int32_t* kept) {
    auto* ranks = reinterpret_cast<std::uint32_t*>(shared_memory());
    std::uint32_t *ties = ranks + frames, *remaining = ties + frames;
    const int lane = static_cast<int>(threadIdx.x);
    const auto key = static_cast<std::uint64_t>(load(seed));
    for (std::int64_t n = blockIdx.x; n < clips; n += gridDim.x) {
        const auto id = static_cast<std::uint64_t>(load(ids + n));
        for (std::int64_t t = lane; t < frames; t += warp_size) {
            const float score = load(scores + n * frames + t);
            require(score == score, "scores must not be NaN");
            ranks[t] = rank_of(score, high);
        }
        warp_barrier();
        // The largest rank with at most `drop` below it: those below go, and of those on it as many as still must.
        std::uint32_t limit = 0;
        std::uint64_t gone = 0;
        for (int bit = 31; bit >= 11; --bit) {
            const std::uint32_t candidate = limit | std::uint32_t{1} << bit;
            std::uint64_t below = 0;
            for (std::int64_t t = lane; t < frames; t += warp_size) below += ranks[t] < candidate;
            below = sum_over_warp(below);
            if (below <= static_cast<std::uint64_t>(drop)) limit = candidate, gone = below;
        }
        const std::uint64_t wanted = static_cast<std::uint64_t>(drop) - gone;
        for (std::int64_t t = lane; t < frames; t += warp_size) {
            remaining[t] = ranks[t] >= limit;
            ties[t] =
                wanted > 0 && ranks[t] == limit ? word_of(key, id, static_cast<std::uint32_t>(t), Purpose::ties) : 0;
        }
        warp_barrier();
        for (std::int64_t t = lane; t < frames && wanted > 0; t += warp_size) {
            if (ranks[t] != limit) continue;
            std::uint64_t before = 0;  // of those on the limit, by tie and then place
            for (std::int64_t i = 0; i < frames; ++i)
                before += ranks[i] == limit && (ties[i] < ties[t] || (ties[i] == ties[t] && i < t));
            if (before < wanted) remaining[t] = 0;
        }
        warp_barrier();
        draw(remaining, frames, random_drop, key, id, Purpose::frames, lane);
        warp_barrier();
        const std::int64_t count = frames - drop - random_drop;
        write_kept(frames, count, lane, kept + n * count, [&](std::int64_t t) { return remaining[t] != 0; });
        warp_barrier();
    }
}

struct Draw {
    const std::int64_t *seed, *ids;
    std::int32_t* kept;
};

Draw check_draw(const Array& seed, const Array& ids, const Array& kept, std::int64_t rows, std::int64_t count,
                std::int32_t device) {
    check_sizes(seed, {}, "seed");
    check_sizes(ids, {rows}, "ids");
    check_sizes(kept, {rows, count}, "kept");
    if (!ids.dense({0}) || !kept.dense({0, 1})) throw std::invalid_argument("ids and kept must be dense");
    return {seed.data<const std::int64_t>("seed", device), ids.data<const std::int64_t>("ids", device),
            kept.data<std::int32_t>("kept", device)};
}

std::size_t shared_for(std::int64_t size, std::size_t each, const char* what) {
    const std::size_t most = most_shared / each;
    if (static_cast<std::size_t>(size) > most)
        throw std::invalid_argument(std::string(what) + " must be of at most " + std::to_string(most) +
                                    " on a device, got " + std::to_string(size));
    return static_cast<std::size_t>(size) * each;
}

}  // namespace

void sample_joints(const Array& weights, std::int64_t drop, const Array& seed, const Array& ids, const Array& kept) {
    if ((weights.rank != 1 && weights.rank != 2) || !(weights.rank == 1 ? weights.dense({0}) : weights.dense({0, 1})))
        throw std::invalid_argument("weights must be dense, of shape (V,) or (N, V)");
    const std::int64_t joints = weights.size(weights.rank - 1), clips = ids.rank == 1 ? ids.size(0) : 0;
    if (drop < 0 || drop > joints) throw std::invalid_argument("drop must be in [0, " + std::to_string(joints) + "]");
    if (weights.rank == 2) check_sizes(weights, {clips, joints}, "weights");
    const Draw to = check_draw(seed, ids, kept, clips, joints - drop, weights.device);
    launch({"sample_joints", blocks_for(clips, 1), threads, shared_for(joints, sizeof(std::uint32_t), "joints"),
            weights.stream},
           keep_joints, weights.data<const double>("weights", weights.device), weights.rank == 2 ? joints : 0, clips,
           joints, drop, to.seed, to.ids, to.kept);
}

void sample_frames(const Array& scores, std::int64_t drop, bool high, std::int64_t random_drop, const Array& seed,
                   const Array& ids, const Array& kept) {
    if (scores.rank != 2 || !scores.dense({0, 1})) throw std::invalid_argument("scores must be dense, of shape (N, T)");
    const std::int64_t clips = scores.size(0), frames = scores.size(1);
    if (drop < 0 || random_drop < 0 || drop > frames - random_drop)
        throw std::invalid_argument("drop and random_drop must together be at most the " + std::to_string(frames) +
                                    " frames");
    const Draw to = check_draw(seed, ids, kept, clips, frames - drop - random_drop, scores.device);
    if (frames == 0) return;
    launch({"sample_frames", blocks_for(clips, 1), threads, shared_for(frames, 3 * sizeof(std::uint32_t), "frames"),
            scores.stream},
           keep_frames, scores.data<const float>("scores", scores.device), clips, frames, drop, high, random_drop,
           to.seed, to.ids, to.kept);
}

}  // namespace asma::cuda
