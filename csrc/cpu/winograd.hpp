// Winograd's F(3, 3) along time: what the kernels and their callers both know of it.
//
// Three output frames of three taps from five source frames by five products in place of nine, with the interpolation
// points 0, ½, −1, 2 and ∞ (of those tried the ones that round least: with 1 for ½ the third frame's error is half as
// large again):
//
//   y = Aᵀ [(G w) ⊙ (Bᵀ d)]
//
// A convolution of 3·triples taps is `triples` of these: tile i (output frames 3i, 3i+1, 3i+2) and triple q (taps 3q,
// 3q+1, 3q+2) read the five frames from 3(i+q) − left on, so that one transformed position n = i + q serves every
// triple. With the positions' joints as rows, the products of a point are a convolution over positions of `triples`
// taps. Taps beyond the last are zero.
//
// Nested: with three triples that convolution is done by Winograd's F(2, 3) in its turn, by four products in place of
// six for a pair of tiles: 20 for six output frames, 54 by direct convolution. Frames that a whole pair would waste
// are convolved directly.
#pragma once

#include <cstdint>

namespace asma::cpu {

inline constexpr std::int64_t winograd_tile = 3, winograd_points = 5, winograd_frames = 5;
inline constexpr std::int64_t nested_points = 4, nested_tile = 6, nested_triples = 3;
inline constexpr std::int64_t nested_most_together = 8;  // rows that share a reading of the weights

static constexpr std::int64_t winograd_triples(std::int64_t taps) {
    return (taps + winograd_tile - 1) / winograd_tile;
}
static constexpr std::int64_t winograd_tiles(std::int64_t frames) {
    return (frames + winograd_tile - 1) / winograd_tile;
}

struct PositionRange {
    std::int64_t begin, end;
};

// The positions in [0, count) whose transform at `point` is not zero throughout: a row of Bᵀ looks at some of the five
// frames, and one of these lies in [0, frames).
static constexpr PositionRange winograd_positions(std::int64_t point, std::int64_t count, std::int64_t frames,
                                                  std::int64_t left) {
    const std::int64_t first = point == 0 ? 0 : 1, last = point == 4 ? 4 : 3;
    std::int64_t begin = 0, end = count;
    while (begin < count && winograd_tile * begin - left + last < 0) ++begin;
    while (end > begin && winograd_tile * (end - 1) - left + first >= frames) --end;
    return {begin, end};
}

// Products (of a joint's channels with a matrix of weights) that `out_frames` frames take, and by direct convolution.
static constexpr std::int64_t winograd_products(std::int64_t out_frames, std::int64_t taps, std::int64_t frames,
                                                std::int64_t left) {
    const std::int64_t tiles = winograd_tiles(out_frames), triples = winograd_triples(taps);
    std::int64_t total = 0;
    for (std::int64_t point = 0; point < winograd_points; ++point) {
        const PositionRange range = winograd_positions(point, tiles + triples - 1, frames, left);
        for (std::int64_t q = 0; q < triples; ++q) {
            const std::int64_t begin = range.begin > q ? range.begin - q : 0;
            const std::int64_t end = range.end - q < tiles ? range.end - q : tiles;
            total += end > begin ? end - begin : 0;
        }
    }
    return total;
}

static constexpr std::int64_t direct_products(std::int64_t out_frames, std::int64_t taps, std::int64_t frames,
                                              std::int64_t left) {
    std::int64_t total = 0;
    for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int64_t begin = left > tap ? left - tap : 0;
        const std::int64_t end = frames + left - tap < out_frames ? frames + left - tap : out_frames;
        total += end > begin ? end - begin : 0;
    }
    return total;
}

struct NestedCut {
    std::int64_t pairs, tail;  // pairs of tiles, and frames after them that are convolved directly
};

static constexpr NestedCut nested_cut(std::int64_t out_frames, std::int64_t taps, std::int64_t frames,
                                      std::int64_t left) {
    const std::int64_t pairs = out_frames / nested_tile, tail = out_frames % nested_tile;
    const bool directly =
        direct_products(tail, taps, frames, left - nested_tile * pairs) < nested_points * winograd_points;
    return directly ? NestedCut{pairs, tail} : NestedCut{pairs + 1, 0};
}

static constexpr std::int64_t nested_products(std::int64_t out_frames, std::int64_t taps, std::int64_t frames,
                                              std::int64_t left) {
    const NestedCut cut = nested_cut(out_frames, taps, frames, left);
    return nested_points * winograd_points * cut.pairs +
           direct_products(cut.tail, taps, frames, left - nested_tile * cut.pairs);
}

}  // namespace asma::cpu
