// Temporal convolution at stride 1 by Winograd's F(3, 3) (cpu/winograd.hpp has the algorithm and its terms).
//
// Of a block of tiles, Bᵀ d of all positions goes to the workspace, [point][position][joint][channel]; a point's
// products with its weights are then a convolution over positions for the micro-kernel, into
// [point][tile][joint][column]; Aᵀ of these are the output frames. The weight gradient is the transpose: a point's
// Σ (Bᵀ d)ᵀ (A g), and G of it at the end.
#include "cpu/conv_rows.hpp"
#include "cpu/micro_kernel.hpp"
#include "cpu/temporal_conv.hpp"
#include "cpu/winograd.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

constexpr int points = winograd_points, tile = winograd_tile;

// ---- the transforms, of vectors or of single numbers ----

template <int point, class T> inline T input_point(const T (&d)[winograd_frames]) {
    if constexpr (point == 0) return (d[0] - d[2]) * real{2} - (d[1] - d[3]);
    if constexpr (point == 1) return (d[3] - d[2]) - d[1] * real{2};
    if constexpr (point == 2) return (d[3] - d[2] * real{3}) + d[1] * real{2};
    if constexpr (point == 3) return d[3] - d[1];
    return (d[4] - d[2]) - (d[3] - d[1]) * real{2};
}

template <class T> inline void output_frames(const T (&m)[points], T (&y)[tile]) {
    const T sum = m[1] + m[2], difference = m[1] - m[2];
    y[0] = (m[0] + sum) + m[3];
    y[1] = difference + m[3] * real{2};
    y[2] = (sum + m[4]) + m[3] * real{4};
}

template <int point, class T> inline T gradient_point(const T (&g)[tile]) {
    if constexpr (point == 0) return g[0];
    if constexpr (point == 1) return (g[0] + g[2]) + g[1];
    if constexpr (point == 2) return (g[0] + g[2]) - g[1];
    if constexpr (point == 3) return (g[0] + g[1] * real{2}) + g[2] * real{4};
    return g[2];
}

template <class T> inline void weight_points(const T (&w)[tile], T (&u)[points]) {
    const T outer = (w[0] + w[2]) * static_cast<real>(1.0 / 6), doubled = w[1] * static_cast<real>(1.0 / 3);
    u[0] = w[0] * real{0.5};
    u[1] = (w[0] + w[1] + w[2]) * real{-0.5};
    u[2] = w[1] * static_cast<real>(1.0 / 6) - outer;
    u[3] = (outer + doubled) + w[2] * real{0.5};
    u[4] = w[2];
}

// Gᵀ: the gradients of three taps.
template <class T> inline void tap_gradients(const T (&u)[points], T (&w)[tile]) {
    const T half = real{-0.5} * u[1], sixth = (u[3] - u[2]) * static_cast<real>(1.0 / 6);
    w[0] = (u[0] * real{0.5} + half) + sixth;
    w[1] = (half + u[2] * static_cast<real>(1.0 / 6)) + u[3] * static_cast<real>(1.0 / 3);
    w[2] = ((half + sixth) + u[3] * real{0.5}) + u[4];
}

// ---- positions ----

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

template <bool loads> inline Vec loaded(const real* from, std::int64_t c, const ConvLoad<real>& load_as) {
    const Vec number = load(from + c);
    if constexpr (loads) return relu(load(load_as.scale + c) * number + load(load_as.shift + c));
    return number;
}

// A point of every channel of every joint, or all five, point_stride apart.
template <bool loads, int first_point, int last_point>
void transform_position(const Position& at, const ConvLoad<real>& load_as, std::int64_t joint, std::int64_t joints,
                        std::int64_t channels, real* to, std::int64_t point_stride) {
    const auto write = [&](const auto& d, real* place, auto put) {
        if constexpr (first_point <= 0 && last_point >= 0) put(place, input_point<0>(d)), place += point_stride;
        if constexpr (first_point <= 1 && last_point >= 1) put(place, input_point<1>(d)), place += point_stride;
        if constexpr (first_point <= 2 && last_point >= 2) put(place, input_point<2>(d)), place += point_stride;
        if constexpr (first_point <= 3 && last_point >= 3) put(place, input_point<3>(d)), place += point_stride;
        if constexpr (first_point <= 4 && last_point >= 4) put(place, input_point<4>(d));
    };
    for (std::int64_t v = 0; v < joints; ++v, to += channels) {
        std::int64_t c = 0;
        for (; c + lanes <= channels; c += lanes) {
            Vec d[winograd_frames] = {};
            for (int i = 0; i < winograd_frames; ++i)
                if (at.frames[i]) d[i] = loaded<loads>(at.frames[i] + v * joint, c, load_as);
            write(d, to + c, [](real* place, const Vec& value) { store(place, value); });
        }
        for (; c < channels; ++c) {
            real d[winograd_frames] = {};
            for (int i = 0; i < winograd_frames; ++i) {
                if (!at.frames[i]) continue;
                const real number = at.frames[i][v * joint + c];
                d[i] = loads ? relu(load_as.scale[c] * number + load_as.shift[c]) : number;
            }
            write(d, to + c, [](real* place, real value) { *place = value; });
        }
    }
}

template <int first_point, int last_point>
void transform_position(const Position& at, const ConvLoad<real>& load_as, std::int64_t joint, std::int64_t joints,
                        std::int64_t channels, real* to, std::int64_t point_stride) {
    if (load_as.scale) {
        transform_position<true, first_point, last_point>(at, load_as, joint, joints, channels, to, point_stride);
        return;
    }
    // Without a load the channels of all joints are alike: one long joint, where they lie together.
    const bool dense = joint == channels;
    transform_position<false, first_point, last_point>(at, load_as, joint, dense ? 1 : joints,
                                                       dense ? joints * channels : channels, to, point_stride);
}

// ---- tiles ----

// Output frames of a tile, those that there are, from its products.
void finish_tile(const real* products, std::int64_t point_stride, std::int64_t joints, std::int64_t columns,
                 const real* bias, std::int64_t frames, real* out, std::int64_t out_row) {
    const std::int64_t out_frame = joints * out_row;
    for (std::int64_t v = 0; v < joints; ++v, products += columns, out += out_row) {
        std::int64_t n = 0;
        for (; n + lanes <= columns; n += lanes) {
            Vec m[points], y[tile];
            for (int p = 0; p < points; ++p) m[p] = load(products + p * point_stride + n);
            output_frames(m, y);
            const Vec start = bias ? load(bias + n) : Vec{};
            for (int i = 0; i < tile; ++i)
                if (i < frames) store(out + i * out_frame + n, y[i] + start);
        }
        for (; n < columns; ++n) {
            real m[points], y[tile];
            for (int p = 0; p < points; ++p) m[p] = products[p * point_stride + n];
            output_frames(m, y);
            for (int i = 0; i < tile; ++i)
                if (i < frames) out[i * out_frame + n] = y[i] + (bias ? bias[n] : real{0});
        }
    }
}

// A point of the gradients of a tile's frames; null where there is none.
template <int point> void transform_gradient(const real* const (&frames)[tile], std::int64_t joint, std::int64_t joints,
                                             std::int64_t columns, real* to) {
    for (std::int64_t v = 0; v < joints; ++v, to += columns) {
        std::int64_t n = 0;
        for (; n + lanes <= columns; n += lanes) {
            Vec g[tile] = {};
            for (int i = 0; i < tile; ++i)
                if (frames[i]) g[i] = load(frames[i] + v * joint + n);
            store(to + n, gradient_point<point>(g));
        }
        for (; n < columns; ++n) {
            real g[tile] = {};
            for (int i = 0; i < tile; ++i)
                if (frames[i]) g[i] = frames[i][v * joint + n];
            to[n] = gradient_point<point>(g);
        }
    }
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
                for (std::int64_t q = 0; q < triples; ++q)
                    for (std::int64_t n = 0; n < width; ++n) {
                        real taps[tile] = {}, transformed[points];
                        for (int i = 0; i < tile; ++i)
                            if (n < columns && tile * q + i < sizes.taps)
                                taps[i] =
                                    weight[n * p.column_stride + c * p.channel_stride + (tile * q + i) * p.tap_stride];
                        weight_points(taps, transformed);
                        for (int point = 0; point < points; ++point)
                            packed[point * point_size + (q * sizes.channels + c) * width + n] = transformed[point];
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
        ConvLoad<real> load = p.load;
        if (load.scale) load.scale += group * sizes.channels, load.shift += group * sizes.channels;
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
    ConvLoad<real> load = p.load;
    if (load.scale) load.scale += group * sizes.channels, load.shift += group * sizes.channels;
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
            std::int64_t n = 0;
            for (; n + lanes <= sizes.columns; n += lanes) {
                Vec sums[points], gradients[tile];
                for (int point = 0; point < points; ++point) {
                    sums[point] = load(from + point * point_size + n);
                    for (std::int64_t part = 1; part < p.parts; ++part)
                        sums[point] += load(from + part * part_size + point * point_size + n);
                }
                tap_gradients(sums, gradients);
                for (int lane = 0; lane < lanes; ++lane)
                    for (int i = 0; i < taps; ++i) to[(n + lane) * column + i] = gradients[i][lane];
            }
            for (; n < sizes.columns; ++n) {
                real sums[points] = {}, gradients[tile];
                for (int point = 0; point < points; ++point)
                    for (std::int64_t part = 0; part < p.parts; ++part)
                        sums[point] += from[part * part_size + point * point_size + n];
                tap_gradients(sums, gradients);
                for (int i = 0; i < taps; ++i) to[n * column + i] = gradients[i];
            }
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
