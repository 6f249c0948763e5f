#include "cpu/temporal_conv_plan.hpp"

#include <algorithm>

#include "core/scratch.hpp"

namespace asma::cpu {
namespace {

constexpr std::int64_t block_rows = 512;          // joints × frames of a work item: sources stay in the L2 cache
constexpr std::int64_t piece_products = 1 << 17;  // multiply-adds worth a thread's while
constexpr std::int64_t least_items = 4;           // pieces of a small batch: each reads all weights
constexpr std::int64_t winograd_channels = 32;    // of fewer the transforms cost what they save
constexpr std::int64_t nested_channels = 64;      // as many as the rounding of two transforms asks for
constexpr std::int64_t winograd_terms = 96;       // of shorter sums the transforms' rounding would be most of the error
constexpr std::int64_t winograd_numbers = 1 << 18;  // of a block's points: they stay in the L2 cache
constexpr std::int64_t nested_rows = 100;           // joints × pairs that share a reading of the weights
constexpr std::int64_t least_shares = 16;           // pieces that a batch is left with by sharing
constexpr std::int64_t many_frames = 1 << 12;       // enough to tell which way is cheaper

// Frames of a block, all blocks about alike. A small batch is cut finer, for as many items as many threads like.
std::int64_t even_blocks(const TemporalConvSizes& sizes, std::int64_t at_most) {
    const std::int64_t wanted = (least_items + sizes.rows - 1) / std::max<std::int64_t>(1, sizes.rows);
    const std::int64_t needed = (sizes.frames + at_most - 1) / at_most;
    const std::int64_t blocks =
        std::clamp<std::int64_t>(wanted, std::max<std::int64_t>(1, needed), std::max<std::int64_t>(1, sizes.frames));
    return std::max<std::int64_t>(1, (sizes.frames + blocks - 1) / blocks);
}

// Rows whose pairs are in work together: as many as the weights, read from beyond the second cache, want sharers, and
// as leave a batch enough items.
std::int64_t rows_together(const TemporalConvSizes& sizes, std::int64_t block_frames, std::int64_t blocks) {
    if (blocks > 1) return 1;
    const std::int64_t rows = block_frames / nested_tile * sizes.joints;
    return std::clamp<std::int64_t>(std::min(nested_rows / std::max<std::int64_t>(1, rows), sizes.rows / least_shares),
                                    1, nested_most_together);
}

std::int64_t workspace_of(const TemporalConvSizes& sizes, const ConvPlan& plan, const ConvCut& cut, bool loads) {
    const auto maps = [&](std::int64_t inputs, std::int64_t outputs) {
        return checked_product({sizes.joints, checked_sum(checked_product({inputs, sizes.channels}),
                                                          checked_product({outputs, sizes.columns}))});
    };
    if (plan.way == ConvWay::nested) {
        const std::int64_t pairs = cut.block_frames / nested_tile * cut.together;
        return maps(nested_points * pairs + cut.together * (plan.cut.tail + sizes.taps),
                    (nested_points + 2 * winograd_points) * pairs);
    }
    if (plan.way == ConvWay::winograd) {
        const std::int64_t tiles = cut.block_frames / winograd_tile;
        return maps(winograd_points * (tiles + winograd_triples(sizes.taps) - 1), winograd_points * tiles);
    }
    if (!loads) return 0;
    const std::int64_t reach = (cut.block_frames - 1) * plan.map.rise + (sizes.taps - 1) * plan.map.step + 1;
    return maps(std::min(reach, sizes.source_frames), 0);
}

}  // namespace

ConvPlan conv_plan(const TemporalConvSizes& sizes, const FrameMap& map) {
    ConvPlan plan;
    plan.map = map, plan.matrices = sizes.taps;
    const bool steady = map.rise == 1 && map.fall == 1 && (map.step == 1 || map.step == -1) && sizes.taps >= 3;
    if (!steady || std::min(sizes.channels, sizes.columns) < winograd_channels) return plan;
    if (sizes.channels * sizes.taps < winograd_terms) return plan;
    const std::int64_t left = map.step == 1 ? -map.offset : sizes.taps - 1 - map.offset;
    const std::int64_t frames = std::min(sizes.frames, many_frames),
                       source = std::min(sizes.source_frames, many_frames);
    if (left < -many_frames || left > many_frames || sizes.taps > many_frames) return plan;
    // A tap that reads nothing but padding has a gradient of exactly zero: the transforms would round it.
    const std::int64_t last = sizes.taps - 1 - left;
    if (left >= frames || -left >= source || last >= source || -last >= frames) return plan;
    const std::int64_t direct = direct_products(frames, sizes.taps, source, left);
    const std::int64_t winograd = winograd_products(frames, sizes.taps, source, left);
    const bool nests = winograd_triples(sizes.taps) == nested_triples && sizes.frames >= nested_tile &&
                       std::min(sizes.channels, sizes.columns) >= nested_channels;
    if (nests && 8 * nested_products(frames, sizes.taps, source, left) <= 7 * std::min(direct, winograd)) {
        plan.way = ConvWay::nested;
        plan.cut = nested_cut(sizes.frames, sizes.taps, sizes.source_frames, left);
        plan.matrices = nested_points * winograd_points + sizes.taps;
    } else if (8 * winograd <= 7 * direct) {
        plan.way = ConvWay::winograd;
        plan.matrices = winograd_points * winograd_triples(sizes.taps);
    }
    plan.reversed = plan.way != ConvWay::direct && map.step == -1;
    if (plan.reversed) plan.map = {1, 1, -left, 1};
    return plan;
}

std::int64_t conv_block_frames(const TemporalConvSizes& sizes, const ConvPlan& plan) {
    if (plan.way == ConvWay::direct)
        return even_blocks(sizes, std::max<std::int64_t>(1, block_rows / std::max<std::int64_t>(1, sizes.joints)));
    const std::int64_t joint = winograd_points * sizes.joints * (sizes.channels + sizes.columns);
    const std::int64_t tiles = std::max<std::int64_t>(2, winograd_numbers / std::max<std::int64_t>(1, joint));
    const std::int64_t unit = plan.way == ConvWay::nested ? nested_tile : winograd_tile;
    const std::int64_t frames = even_blocks(sizes, winograd_tile * tiles);
    return (frames + unit - 1) / unit * unit;
}

ConvCut conv_cut(const TemporalConvSizes& sizes, const ConvPlan& plan, bool loads) {
    ConvCut cut{};
    cut.block_frames = conv_block_frames(sizes, plan);
    // Nested, the tail belongs to the last block of pairs.
    const std::int64_t frames = plan.way == ConvWay::nested ? plan.cut.pairs * nested_tile : sizes.frames;
    const std::int64_t blocks = (frames + cut.block_frames - 1) / cut.block_frames;
    cut.together = plan.way == ConvWay::nested ? rows_together(sizes, cut.block_frames, blocks) : 1;
    cut.items = (sizes.rows + cut.together - 1) / cut.together * blocks * sizes.groups;
    cut.workspace = workspace_of(sizes, plan, cut, loads);
    const std::int64_t products =
        cut.block_frames * sizes.joints * sizes.taps * std::max<std::int64_t>(1, sizes.channels * sizes.columns);
    cut.grain = std::max<std::int64_t>(1, piece_products / std::max<std::int64_t>(1, products));
    return cut;
}

std::int64_t packed_weights(const TemporalConvSizes& sizes, const ConvPlan& plan) {
    return checked_product({packed_columns(sizes.columns), sizes.channels, plan.matrices});
}

}  // namespace asma::cpu
