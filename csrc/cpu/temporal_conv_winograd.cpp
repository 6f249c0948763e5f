// Temporal convolution at stride 1 by Winograd's F(3, 3) (cpu/winograd.hpp has the algorithm and its terms).
//
// Of a block of tiles, Bᵀ d of all positions goes to the workspace, [point][position][joint][channel]; a point's
// products with its weights are then a convolution over positions for the micro-kernel, into
// [point][tile][joint][column]; Aᵀ of these are the output frames. The weight gradient is the transpose: a point's
// Σ (Bᵀ d)ᵀ (A g), and G of it at the end.
#include "cpu/conv_rows.hpp"
#include "cpu/frame_step.hpp"
#include "cpu/graph_conv_rows.hpp"
#include "cpu/micro_kernel.hpp"
#include "cpu/temporal_conv.hpp"
#include "cpu/winograd_transforms.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

// The five frames of a position: pointers to their first joint, null where there is none.
struct Position {
    const real* frames[winograd_frames];
};

Position position_at(const real* x, std::int64_t frame, std::int64_t frames, std::int64_t stride) {
    Position found{};
    for (int i = 0; i < winograd_frames; ++i)
        if (frame + i >= 0 && frame + i < frames) found.frames[i] = x + (frame + i) * stride;
    return found;
}

// The points [first_point, last_point] of every channel of every joint, point_stride apart.
template <int first_point, int last_point>
void transform_position(const Position& at, const ConvLoad<real>& load, std::int64_t joint, std::int64_t joints,
                        std::int64_t channels, real* to, std::int64_t point_stride) {
    by_load(load, joint, joints, channels, [&](auto loads, std::int64_t count, std::int64_t width) {
        for (std::int64_t v = 0; v < count; ++v)
            over_columns(width, [&](auto step, std::int64_t c) {
                using Step = decltype(step);
                typename Step::Number d[winograd_frames];
                for (int i = 0; i < winograd_frames; ++i)
                    d[i] = read_source<decltype(loads)::value>(step, at.frames[i], v * joint + c, c, load);
                real* place = to + v * width + c;
                if constexpr (first_point <= 0) Step::store(place, input_point<0>(d)), place += point_stride;
                if constexpr (first_point <= 1 && last_point >= 1)
                    Step::store(place, input_point<1>(d)), place += point_stride;
                if constexpr (first_point <= 2 && last_point >= 2)
                    Step::store(place, input_point<2>(d)), place += point_stride;
                if constexpr (first_point <= 3 && last_point >= 3)
                    Step::store(place, input_point<3>(d)), place += point_stride;
                if constexpr (last_point >= 4) Step::store(place, input_point<4>(d));
            });
    });
}

// A point of the gradients of a tile's frames; null where there is none.
template <int point> void transform_gradient(const real* const (&frames)[tile], std::int64_t joint, std::int64_t joints,
                                             std::int64_t columns, real* to) {
    for (std::int64_t v = 0; v < joints; ++v)
        over_columns(columns, [&](auto step, std::int64_t n) {
            using Step = decltype(step);
            typename Step::Number g[tile];
            for (int i = 0; i < tile; ++i) g[i] = read_source<false>(step, frames[i], v * joint + n, n, {});
            Step::store(to + v * columns + n, gradient_point<point>(g));
        });
}

struct Tiles {
    std::int64_t begin, end;
};

// The tiles in [0, count) whose triple q reads a position of the range.
Tiles tiles_of(const PositionRange& range, std::int64_t q, std::int64_t count) {
    const std::int64_t begin = range.begin > q ? range.begin - q : 0, end = range.end - q;
    return {begin, end < count ? end : count};
}

struct Triples {
    std::int64_t begin, end;
    bool operator==(const Triples& other) const { return begin == other.begin && end == other.end; }
};

// The triples of tile i that read a position of the range.
Triples triples_of(const PositionRange& range, std::int64_t i, std::int64_t count) {
    const std::int64_t begin = range.begin > i ? range.begin - i : 0;
    const std::int64_t end = range.end - i < count ? range.end - i : count;
    return {begin, end > begin ? end : begin};
}

}  // namespace

void winograd_pack(const TemporalConvPackParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t triples = winograd_triples(sizes.taps), per_group = slabs(sizes.columns);
    const std::int64_t point_size = p.packed_group / points;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / per_group, slab = item % per_group * slab_columns;
        for (std::int64_t first = slab; first < slab + slab_columns && first < sizes.columns; first += panel_columns) {
            const std::int64_t columns = sizes.columns - first < panel_columns ? sizes.columns - first : panel_columns;
            const std::int64_t width = panel_width(columns);
            const real* weight = p.weight + group * p.group_stride + first * p.column_stride;
            real* packed = p.packed + group * p.packed_group + first * triples * sizes.channels;
            for (std::int64_t c = 0; c < sizes.channels; ++c)
                for (std::int64_t q = 0; q < triples; ++q) {
                    double taps[tile][panel_columns], transformed[points][panel_columns];
                    read_taps(weight + c * p.channel_stride, p.column_stride, p.tap_stride, columns, tile * q,
                              sizes.taps, taps);
                    weight_points(taps, transformed);
                    for (int point = 0; point < points; ++point)
                        store_columns(transformed[point], width,
                                      packed + point * point_size + (q * sizes.channels + c) * width);
                }
        }
    }
}

void winograd_conv(const TemporalConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t triples = winograd_triples(sizes.taps), block_tiles = p.block_frames / tile;
    const std::int64_t tiles = winograd_tiles(sizes.frames), blocks = (tiles + block_tiles - 1) / block_tiles;
    const std::int64_t x_row = sizes.groups * sizes.channels, x_frame = sizes.joints * x_row, left = -p.map.offset;
    const std::int64_t out_row = sizes.groups * sizes.columns, out_frame = sizes.joints * out_row;
    const std::int64_t position_size = sizes.joints * sizes.channels, tile_size = sizes.joints * sizes.columns;
    const std::int64_t position_points = (block_tiles + triples - 1) * position_size;
    const std::int64_t tile_points = block_tiles * tile_size, packed_point = p.packed_group / points;
    real* const products = p.workspace + points * position_points;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item % sizes.groups, block = item / sizes.groups % blocks;
        const std::int64_t row = item / sizes.groups / blocks, first = block * block_tiles;
        const std::int64_t count = first + block_tiles < tiles ? block_tiles : tiles - first;
        const real* x = p.x + row * sizes.source_frames * x_frame + group * sizes.channels;
        const std::int64_t block_left = left - tile * first;  // the source as the block sees it
        const ConvLoad<real> load = load_of_group(p.load, group, sizes.channels);
        for (std::int64_t n = 0; n < count + triples - 1; ++n)
            transform_position<0, points - 1>(position_at(x, tile * n - block_left, sizes.source_frames, x_frame), load,
                                              x_row, sizes.joints, sizes.channels, p.workspace + n * position_size,
                                              position_points);
        for (std::int64_t point = 0; point < points; ++point) {
            const PositionRange range = winograd_positions(point, count + triples - 1, sizes.source_frames, block_left);
            RowProduct product{};
            product.packed = p.packed + group * p.packed_group + point * packed_point;
            product.source_row = sizes.channels, product.source_tap = position_size;
            product.out_row = sizes.columns, product.channels = sizes.channels;
            product.packed_taps = triples, product.tap_step = 1;
            for (std::int64_t slab = 0; slab < sizes.columns; slab += slab_columns)
                for (std::int64_t i = 0; i < count;) {
                    const Triples taken = triples_of(range, i, triples);
                    std::int64_t next = i + 1;
                    while (next < count && triples_of(range, next, triples) == taken) ++next;
                    product.source = p.workspace + point * position_points + (i + taken.begin) * position_size;
                    product.out = products + point * tile_points + i * tile_size;
                    product.rows = (next - i) * sizes.joints;
                    product.first_tap = taken.begin, product.taps = taken.end - taken.begin;
                    multiply_rows(product, slab,
                                  slab + slab_columns < sizes.columns ? slab + slab_columns : sizes.columns);
                    i = next;
                }
        }
        double* sums = p.store.sums ? p.store.sums + item * 2 * sizes.columns : nullptr;
        for (std::int64_t i = 0; sums && i < 2 * sizes.columns; ++i) sums[i] = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t t = tile * (first + i), frames = sizes.frames - t < tile ? sizes.frames - t : tile;
            const std::int64_t at = (row * sizes.frames + t) * out_frame + group * sizes.columns;
            finish_tile(products + i * tile_size, tile_points, sizes.joints, sizes.columns,
                        p.bias ? p.bias + group * sizes.columns : nullptr, frames, p.out + at, out_row);
            finish_rows(p.store, p.out, at, out_row, frames * sizes.joints, group * sizes.columns, sizes.columns, sums);
        }
    }
}

namespace {

// Σ over the part's rows of (Bᵀ d)ᵀ (A g) at one point, for every triple.
template <int point>
void add_point(const TemporalConvWeightParams<real>& p, std::int64_t part, std::int64_t group, real* sums) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t triples = winograd_triples(sizes.taps), tiles = winograd_tiles(sizes.frames);
    const std::int64_t x_row = sizes.groups * sizes.channels, x_frame = sizes.joints * x_row, left = -p.map.offset;
    const std::int64_t g_row = sizes.groups * sizes.columns, g_frame = sizes.joints * g_row;
    const std::int64_t position_size = sizes.joints * sizes.channels, tile_size = sizes.joints * sizes.columns;
    const std::int64_t positions = tiles + triples - 1;
    const PositionRange range = winograd_positions(point, positions, sizes.source_frames, left);
    const ConvLoad<real> load = load_of_group(p.load, group, sizes.channels);
    real* const inputs = p.workspace;
    real* const gradients = p.workspace + p.together * positions * position_size;
    const std::int64_t stop = (part + 1) * sizes.rows / p.parts;
    for (std::int64_t row = part * sizes.rows / p.parts; row < stop; row += p.together) {
        const std::int64_t count = stop - row < p.together ? stop - row : p.together;
        for (std::int64_t r = 0; r < count; ++r) {
            const real* x = p.x + (row + r) * sizes.source_frames * x_frame + group * sizes.channels;
            const real* g = p.g + (row + r) * sizes.frames * g_frame + group * sizes.columns;
            for (std::int64_t n = range.begin; n < range.end; ++n)
                transform_position<point, point>(position_at(x, tile * n - left, sizes.source_frames, x_frame), load,
                                                 x_row, sizes.joints, sizes.channels,
                                                 inputs + (r * positions + n) * position_size, 0);
            for (std::int64_t i = 0; i < tiles; ++i) {
                const real* frames[tile] = {};
                for (int k = 0; k < tile; ++k)
                    if (tile * i + k < sizes.frames) frames[k] = g + (tile * i + k) * g_frame;
                transform_gradient<point>(frames, g_row, sizes.joints, sizes.columns,
                                          gradients + (r * tiles + i) * tile_size);
            }
        }
        for (std::int64_t q = 0; q < triples; ++q) {
            const Tiles taken = tiles_of(range, q, tiles);
            if (taken.begin >= taken.end) continue;
            OuterProduct product{};
            product.source = inputs + (taken.begin + q) * position_size;
            product.gradient = gradients + taken.begin * tile_size;
            product.sums = sums + q * sizes.channels * sizes.columns;
            product.source_row = sizes.channels, product.gradient_row = product.sums_row = sizes.columns;
            product.rows = (taken.end - taken.begin) * sizes.joints, product.channels = sizes.channels;
            product.stretches = count;
            product.source_stretch = positions * position_size, product.gradient_stretch = tiles * tile_size;
            accumulate_outer(product, 0, sizes.columns);
        }
    }
}

}  // namespace

void winograd_backward_weight(const TemporalConvWeightParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t point_size = winograd_triples(sizes.taps) * sizes.channels * sizes.columns;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t point = item % points, group = item / points % sizes.groups;
        const std::int64_t part = item / points / sizes.groups;
        real* sums = p.partial + item * point_size;
        for (std::int64_t i = 0; i < point_size; ++i) sums[i] = 0;
        if (point == 0) add_point<0>(p, part, group, sums);
        if (point == 1) add_point<1>(p, part, group, sums);
        if (point == 2) add_point<2>(p, part, group, sums);
        if (point == 3) add_point<3>(p, part, group, sums);
        if (point == 4) add_point<4>(p, part, group, sums);
    }
}

void winograd_merge(const TemporalConvMergeParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t triples = winograd_triples(sizes.taps), tap_size = sizes.channels * sizes.columns;
    const std::int64_t point_size = triples * tap_size, part_size = sizes.groups * points * point_size;
    const std::int64_t column = sizes.channels * sizes.taps;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / sizes.channels, c = item % sizes.channels;
        const real* partial = p.partial + group * points * point_size + c * sizes.columns;
        for (std::int64_t q = 0; q < triples; ++q) {
            const std::int64_t left = sizes.taps - tile * q, taps = left < tile ? left : tile;
            const real* from = partial + q * tap_size;
            real* to = p.weight_grad + (group * sizes.columns * sizes.channels + c) * sizes.taps + tile * q;
            over_columns(sizes.columns, [&](auto step, std::int64_t n) {
                using Step = decltype(step);
                typename Step::Number sums[points], gradients[tile];
                for (int point = 0; point < points; ++point) {
                    sums[point] = Step::load(from + point * point_size + n);
                    for (std::int64_t part = 1; part < p.parts; ++part)
                        sums[point] += Step::load(from + part * part_size + point * point_size + n);
                }
                tap_gradients(sums, gradients);
                for (int i = 0; i < taps; ++i) scatter(to + n * column + i, column, gradients[i]);
            });
        }
    }
}

// ---- one frame of a stream: few rows and little work, so that nothing is planned, listed or copied here ----
//
// Both of its kernels stand in this file for its copy of the micro kernel: one more would take as much room in the C
// library as all the rest of a stream, and in the files of the other kernels they would change what is inlined there.

namespace {

struct Columns {
    std::int64_t begin, end;
};

inline Columns columns_of(std::int64_t begin, std::int64_t end, std::int64_t columns) {
    const std::int64_t last = end * slab_columns;
    return {begin * slab_columns, last < columns ? last : columns};
}

// Rows `width` apart of the columns of a slab, or of all, padding included: they are then one stretch.
struct Stretch {
    std::int64_t begin, count, rows;
};

inline Stretch stretch_of(const Columns& range, std::int64_t columns, std::int64_t width, std::int64_t rows) {
    if (range.begin == 0 && range.end == columns) return {0, rows * width, 1};
    return {range.begin, range.end - range.begin, rows};
}

inline void relu_twice(real* out, real* copy, std::int64_t count) {
    std::int64_t n = 0;
    for (; n + lanes <= count; n += lanes) {
        const Vec value = relu(load(out + n));
        store(out + n, value);
        store(copy + n, value);
    }
    for (; n < count; ++n) copy[n] = out[n] = relu(out[n]);
}

// Σ_tap by_tap[tap, n] · source_tap[r, n] + bias[n]
void convolve_channels(const FrameConvParams<real>& p, const Columns& range) {
    for (std::int64_t r = 0; r < p.rows; ++r) {
        const real* const source = p.source + r * p.width;
        real* const out = p.out + r * p.out_width;
        const real* const residual = p.residual ? p.residual + r * p.out_width : nullptr;
        std::int64_t n = range.begin;
        for (; n + lanes <= range.end; n += lanes) {
            Vec sum = load(p.by_tap + n) * load(source + n);
            for (std::int64_t tap = 1; tap < p.taps; ++tap)
                sum += load(p.by_tap + tap * p.groups + n) * load(source + tap * p.source_tap + n);
            sum += load(p.bias + n);
            if (residual) sum += load(residual + n);
            store(out + n, p.relu ? relu(sum) : sum);
        }
        for (; n < range.end; ++n) {
            real sum = 0;
            for (std::int64_t tap = 0; tap < p.taps; ++tap)
                sum += p.by_tap[tap * p.groups + n] * source[tap * p.source_tap + n];
            sum += p.bias[n];
            if (residual) sum += residual[n];
            out[n] = p.relu ? relu(sum) : sum;
        }
    }
}

}  // namespace

void frame_graph(const FrameGraphParams<real>& p, std::int64_t begin, std::int64_t end) {
    const bool one_pass = in_one_pass(p.width);
    const std::int64_t part = one_pass ? p.channels : p.width, frame = p.joints * p.out_width;
    if (begin == 0) {
        GraphConvParams<real> graph{};
        graph.joints = p.joints, graph.channels = p.channels, graph.width = p.width, graph.parts = p.parts;
        graph.block = p.bodies;
        graph.work.into = p.into, graph.work.gathered = p.gathered, graph.work.packed_frame = p.packed_frame;
        clear_lone_targets(graph, part);
        gather(graph, {p.x, p.joints * p.width, p.width}, p.bodies, part);
        for (std::int64_t body = 0; body < p.bodies; ++body)
            __builtin_memcpy(p.out + body * frame, p.joint_bias, static_cast<std::size_t>(frame) * sizeof(real));
    }
    RowProduct product{};
    product.source = p.gathered, product.out = p.out, product.packed = p.packed, product.accumulate = true;
    product.source_row = p.parts * p.width, product.source_tap = p.width, product.out_row = p.out_width;
    product.rows = p.bodies * p.joints, product.tap_step = 1;
    product.channels = one_pass ? p.parts * p.channels : p.channels;
    product.packed_taps = product.taps = one_pass ? 1 : p.parts;
    const Columns range = columns_of(begin, end, p.out_channels);
    multiply_rows(product, range.begin, range.end);
    const Stretch whole = stretch_of(range, p.out_channels, p.out_width, product.rows);
    for (std::int64_t r = 0; r < whole.rows; ++r) {
        real* const out = p.out + whole.begin + r * p.out_width;
        if (p.copy)
            relu_twice(out, p.copy + whole.begin + r * p.out_width, whole.count);
        else
            add_residual(out, nullptr, true, whole.count);
    }
}

void frame_conv(const FrameConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    if (p.by_tap) return convolve_channels(p, columns_of(begin, end, p.groups));
    const std::int64_t a_group = slabs(p.columns);
    for (std::int64_t item = begin; item < end;) {
        const std::int64_t group = item / a_group, stop = (group + 1) * a_group < end ? (group + 1) * a_group : end;
        const Columns range = columns_of(item - group * a_group, stop - group * a_group, p.columns);
        RowProduct product{};
        product.source = p.source + group * p.channels, product.out = p.out + group * p.columns;
        product.packed = p.packed + group * p.packed_group, product.bias = p.bias + group * p.columns;
        product.source_row = p.width, product.source_tap = p.source_tap, product.out_row = p.out_width;
        product.rows = p.rows, product.channels = p.channels;
        product.packed_taps = product.taps = p.taps, product.tap_step = 1;
        multiply_rows(product, range.begin, range.end);
        Stretch whole{range.begin + group * p.columns, range.end - range.begin, p.rows};
        if (p.groups == 1) whole = stretch_of(range, p.columns, p.out_width, p.rows);
        for (std::int64_t r = 0; (p.residual || p.relu) && r < whole.rows; ++r) {
            const std::int64_t at = whole.begin + r * p.out_width;
            add_residual(p.out + at, p.residual ? p.residual + at : nullptr, p.relu, whole.count);
        }
        item = stop;
    }
}

}  // namespace asma::cpu::ASMA_ISA
