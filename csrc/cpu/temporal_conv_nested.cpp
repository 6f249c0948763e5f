// Temporal convolution of 7 to 9 taps at stride 1 by Winograd's F(3, 3) and, over the positions of that, F(2, 3)
// (cpu/winograd.hpp has the algorithm and its terms). A pair of tiles reads fourteen frames, as four positions. Of the
// points along a tile one is in work at a time: its four points of every pair are a product of rows each.
#include "cpu/conv_rows.hpp"
#include "cpu/micro_kernel.hpp"
#include "cpu/temporal_conv.hpp"
#include "cpu/winograd_transforms.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

constexpr int all_points = points * outer_points;
// The terms of a product are channels alone, a ninth of a direct sum's: chains may be longer, and each costs its start.
constexpr std::int64_t nested_chain = 64;
constexpr std::int64_t pair_frames = winograd_tile * (nested_points - 1) + winograd_frames;

// Strides of one group's source and result, and where a pair of tiles reads.
struct Layout {
    explicit Layout(const TemporalConvSizes& s, const FrameMap& map)
        : x_row(s.groups * s.channels),
          x_frame(s.joints * x_row),
          out_row(s.groups * s.columns),
          out_frame(s.joints * out_row),
          inputs(s.joints * s.channels),
          outputs(s.joints * s.columns),
          left(-map.offset) {}
    std::int64_t x_row, x_frame, out_row, out_frame;
    std::int64_t inputs, outputs;  // numbers of a frame of the group
    std::int64_t left;
};

// One point along the tile, all four along the positions, of a pair that reads from source frame `first` on.
template <int point> void transform_pair(const real* x, std::int64_t first, const TemporalConvSizes& sizes,
                                         const Layout& at, const ConvLoad<real>& load, real* to,
                                         std::int64_t outer_stride) {
    const real* frames[pair_frames];
    for (std::int64_t i = 0; i < pair_frames; ++i)
        frames[i] = first + i >= 0 && first + i < sizes.source_frames ? x + (first + i) * at.x_frame : nullptr;
    by_load(load, at.x_row, sizes.joints, sizes.channels, [&](auto loads, std::int64_t joints, std::int64_t channels) {
        for (std::int64_t v = 0; v < joints; ++v)
            over_columns(channels, [&](auto step, std::int64_t c) {
                using Step = decltype(step);
                typename Step::Number positions[outer_points], turned[outer_points];
                for (int n = 0; n < outer_points; ++n) {
                    typename Step::Number d[winograd_frames];
                    for (int i = 0; i < winograd_frames; ++i)
                        d[i] =
                            read_source<decltype(loads)::value>(step, frames[tile * n + i], v * at.x_row + c, c, load);
                    positions[n] = input_point<point>(d);
                }
                outer_input(positions, turned);
                for (int n = 0; n < outer_points; ++n) Step::store(to + n * outer_stride + v * channels + c, turned[n]);
            });
    });
}

// The same of the gradient of a pair's six frames.
template <int point> void transform_pair_gradient(const real* g, std::int64_t first, const TemporalConvSizes& sizes,
                                                  const Layout& at, real* to, std::int64_t outer_stride) {
    const real* frames[nested_tile];
    for (std::int64_t i = 0; i < nested_tile; ++i)
        frames[i] = first + i < sizes.frames ? g + (first + i) * at.out_frame : nullptr;
    for (std::int64_t v = 0; v < sizes.joints; ++v)
        over_columns(sizes.columns, [&](auto step, std::int64_t n) {
            using Step = decltype(step);
            typename Step::Number tiles[2], turned[outer_points];
            for (int k = 0; k < 2; ++k) {
                typename Step::Number d[tile];
                for (int i = 0; i < tile; ++i)
                    d[i] = read_source<false>(step, frames[tile * k + i], v * at.out_row + n, n, {});
                tiles[k] = gradient_point<point>(d);
            }
            outer_gradient(tiles, turned);
            for (int i = 0; i < outer_points; ++i)
                Step::store(to + i * outer_stride + v * sizes.columns + n, turned[i]);
        });
}

// The four points of a pair → one point of its two tiles.
void finish_pair(const real* products, std::int64_t outer_stride, std::int64_t size, real* tiles) {
    over_columns(size, [&](auto step, std::int64_t n) {
        using Step = decltype(step);
        typename Step::Number m[outer_points], y[2];
        for (int i = 0; i < outer_points; ++i) m[i] = Step::load(products + i * outer_stride + n);
        outer_output(m, y);
        Step::store(tiles + n, y[0]);
        Step::store(tiles + size + n, y[1]);
    });
}

// The source of the tail: frames [first, end) of a row, and where they lie.
struct TailSource {
    const real* frames;
    std::int64_t first, end, joint;
};

TailSource tail_source(const real* x, const TemporalConvSizes& sizes, const NestedCut& cut, const Layout& at,
                       const ConvLoad<real>& load, real* workspace) {
    const std::int64_t wanted = nested_tile * cut.pairs - at.left, stop = sizes.frames - 1 + sizes.taps - at.left;
    const std::int64_t first = wanted > 0 ? wanted : 0;
    const std::int64_t end = stop < sizes.source_frames ? stop : sizes.source_frames;
    if (end <= first) return {workspace, first, first, sizes.channels};
    if (!load.scale) return {x + first * at.x_frame, first, end, at.x_row};
    load_rows(x + first * at.x_frame, at.x_row, (end - first) * sizes.joints, sizes.channels, load.scale, load.shift,
              workspace);
    return {workspace, first, end, sizes.channels};
}

struct Taps {
    std::int64_t begin, end;
};

// The taps for which frame t reads inside the source.
Taps taps_of(const TemporalConvSizes& sizes, std::int64_t t, std::int64_t left) {
    const std::int64_t begin = left > t ? left - t : 0, room = sizes.source_frames + left - t;
    const std::int64_t end = room < sizes.taps ? room : sizes.taps;
    return {begin, end > begin ? end : begin};
}

// The frames after the last pair of `count` rows, directly: a slab of columns at a time, whose weights then stay in the
// cache.
void convolve_tail(const TemporalConvParams<real>& p, const real* packed, const real* bias, const TailSource* sources,
                   std::int64_t count, const Layout& at, real* out) {
    const TemporalConvSizes& sizes = p.sizes;
    RowProduct product{};
    product.packed = packed, product.bias = bias;
    product.source_row = sources->joint, product.source_tap = sizes.joints * sources->joint;
    product.out_row = at.out_row, product.rows = sizes.joints, product.channels = sizes.channels;
    product.packed_taps = sizes.taps, product.tap_step = 1;
    for (std::int64_t slab = 0; slab < sizes.columns; slab += slab_columns)
        for (std::int64_t r = 0; r < count; ++r)
            for (std::int64_t t = nested_tile * p.cut.pairs; t < sizes.frames; ++t) {
                const TailSource& source = sources[r];
                const Taps taps = taps_of(sizes, t, at.left);
                const std::int64_t frame = taps.end > taps.begin ? t + taps.begin - at.left : source.first;
                product.source = source.frames + (frame - source.first) * product.source_tap;
                product.out = out + (r * sizes.frames + t) * at.out_frame;
                product.first_tap = taps.begin, product.taps = taps.end - taps.begin;
                multiply_rows(product, slab, slab + slab_columns < sizes.columns ? slab + slab_columns : sizes.columns);
            }
}

// What lies where in the workspace of the pairs [first, first + pairs) of each of `rows` rows, `count` in all.
struct Block {
    std::int64_t first, pairs, rows, count;
    real *inputs, *outputs, *tiles, *tail;
};

template <int point> void convolve_point(const TemporalConvParams<real>& p, const real* x, const real* packed,
                                         const ConvLoad<real>& load, const Layout& at, const Block& block) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t input_stride = block.count * at.inputs, output_stride = block.count * at.outputs;
    for (std::int64_t m = 0; m < block.count; ++m)
        transform_pair<point>(x + m / block.pairs * sizes.source_frames * at.x_frame,
                              nested_tile * (block.first + m % block.pairs) - at.left, sizes, at, load,
                              block.inputs + m * at.inputs, input_stride);
    RowProduct product{};
    product.source_row = product.channels = sizes.channels, product.out_row = sizes.columns;
    product.rows = block.count * sizes.joints;
    product.packed_taps = product.taps = product.tap_step = 1;
    product.chain = nested_chain;
    for (std::int64_t i = 0; i < outer_points; ++i) {
        product.source = block.inputs + i * input_stride;
        product.out = block.outputs + i * output_stride;
        product.packed = packed + (point * outer_points + i) * packed_columns(sizes.columns) * sizes.channels;
        multiply_rows(product, 0, sizes.columns);
    }
    for (std::int64_t m = 0; m < block.count; ++m)
        finish_pair(block.outputs + m * at.outputs, output_stride, at.outputs,
                    block.tiles + (point * block.count + m) * 2 * at.outputs);
}

}  // namespace

void nested_pack(const TemporalConvPackParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t per_group = slabs(sizes.columns), point_size = packed_columns(sizes.columns) * sizes.channels;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / per_group, slab = item % per_group * slab_columns;
        const std::int64_t stop = slab + slab_columns < sizes.columns ? slab + slab_columns : sizes.columns;
        const real* weights = p.weight + group * p.group_stride;
        real* packed = p.packed + group * p.packed_group;
        for (std::int64_t first = slab; first < stop; first += panel_columns) {
            const std::int64_t columns = stop - first < panel_columns ? stop - first : panel_columns;
            const std::int64_t width = panel_width(columns);
            real* panel = packed + first * sizes.channels;
            real* direct = packed + all_points * point_size + first * sizes.taps * sizes.channels;
            for (std::int64_t c = 0; c < sizes.channels; ++c) {
                double inner[nested_triples][points][panel_columns];
                for (int q = 0; q < nested_triples; ++q) {
                    double taps[tile][panel_columns];
                    read_taps(weights + first * p.column_stride + c * p.channel_stride, p.column_stride, p.tap_stride,
                              columns, tile * q, sizes.taps, taps);
                    weight_points(taps, inner[q]);
                    for (int i = 0; i < tile && tile * q + i < sizes.taps; ++i)
                        store_columns(taps[i], width, direct + ((tile * q + i) * sizes.channels + c) * width);
                }
                for (int point = 0; point < points; ++point) {
                    double outer[outer_points][panel_columns];
                    for (std::int64_t n = 0; n < panel_columns; ++n) {
                        const double w[nested_triples] = {inner[0][point][n], inner[1][point][n], inner[2][point][n]};
                        double u[outer_points];
                        outer_weights(w, u);
                        for (int i = 0; i < outer_points; ++i) outer[i][n] = u[i];
                    }
                    for (int i = 0; i < outer_points; ++i)
                        store_columns(outer[i], width,
                                      panel + (point * outer_points + i) * point_size + c * width);
                }
            }
        }
    }
}

void nested_conv(const TemporalConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const Layout at(sizes, p.map);
    const std::int64_t block_pairs = p.block_frames / nested_tile,
                       point_size = packed_columns(sizes.columns) * sizes.channels;
    const std::int64_t blocks = (p.cut.pairs + block_pairs - 1) / block_pairs;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item % sizes.groups, row = item / sizes.groups / blocks * p.together;
        Block block{};
        block.first = item / sizes.groups % blocks * block_pairs;
        block.pairs = p.cut.pairs - block.first < block_pairs ? p.cut.pairs - block.first : block_pairs;
        block.rows = sizes.rows - row < p.together ? sizes.rows - row : p.together;
        block.count = block.pairs * block.rows;
        block.inputs = p.workspace;
        block.outputs = block.inputs + outer_points * block.count * at.inputs;
        block.tiles = block.outputs + outer_points * block.count * at.outputs;
        block.tail = block.tiles + points * block.count * 2 * at.outputs;
        const real* x = p.x + row * sizes.source_frames * at.x_frame + group * sizes.channels;
        const real* packed = p.packed + group * p.packed_group;
        const real* bias = p.bias ? p.bias + group * sizes.columns : nullptr;
        const ConvLoad<real> load = load_of_group(p.load, group, sizes.channels);
        convolve_point<0>(p, x, packed, load, at, block);
        convolve_point<1>(p, x, packed, load, at, block);
        convolve_point<2>(p, x, packed, load, at, block);
        convolve_point<3>(p, x, packed, load, at, block);
        convolve_point<4>(p, x, packed, load, at, block);
        double* sums = p.store.sums ? p.store.sums + item * 2 * sizes.columns : nullptr;
        for (std::int64_t i = 0; sums && i < 2 * sizes.columns; ++i) sums[i] = 0;
        const std::int64_t out = row * sizes.frames * at.out_frame + group * sizes.columns;
        const auto finish = [&](std::int64_t frame, std::int64_t frames) {
            finish_rows(p.store, p.out, out + frame * at.out_frame, at.out_row, frames * sizes.joints,
                        group * sizes.columns, sizes.columns, sums);
        };
        for (std::int64_t i = 0; i < 2 * block.count; ++i) {
            const std::int64_t r = i / 2 / block.pairs, of_row = i - 2 * r * block.pairs;
            const std::int64_t t = nested_tile * block.first + tile * of_row;
            const std::int64_t left = sizes.frames - t, frames = left < tile ? left : tile;
            if (left <= 0) continue;
            finish_tile(block.tiles + i * at.outputs, 2 * block.count * at.outputs, sizes.joints, sizes.columns, bias,
                        frames, p.out + out + (r * sizes.frames + t) * at.out_frame, at.out_row);
            finish(r * sizes.frames + t, frames);
        }
        if (p.cut.tail == 0 || block.first + block.pairs < p.cut.pairs) continue;
        TailSource sources[nested_most_together];
        for (std::int64_t r = 0; r < block.rows; ++r)
            sources[r] = tail_source(x + r * sizes.source_frames * at.x_frame, sizes, p.cut, at, load,
                                     block.tail + r * (p.cut.tail + sizes.taps) * at.inputs);
        convolve_tail(p, packed + all_points * point_size, bias, sources, block.rows, at, p.out + out);
        for (std::int64_t r = 0; r < block.rows; ++r) finish(r * sizes.frames + nested_tile * p.cut.pairs, p.cut.tail);
    }
}

namespace {

struct Part {
    std::int64_t group, begin, end;  // rows
    real* sums;
};

// Σ of the part's pairs at the four points of one along the tile.
template <int point> void add_pairs(const TemporalConvWeightParams<real>& p, const Part& part) {
    const TemporalConvSizes& sizes = p.sizes;
    const Layout at(sizes, p.map);
    const ConvLoad<real> load = load_of_group(p.load, part.group, sizes.channels);
    const std::int64_t rows = p.together * p.cut.pairs, point_size = sizes.channels * sizes.columns;
    real* const gradients = p.workspace + outer_points * rows * at.inputs;
    for (std::int64_t row = part.begin; row < part.end; row += p.together) {
        const std::int64_t count = part.end - row < p.together ? part.end - row : p.together;
        for (std::int64_t i = 0; i < count * p.cut.pairs; ++i) {
            const std::int64_t b = row + i / p.cut.pairs, first = nested_tile * (i % p.cut.pairs);
            transform_pair<point>(p.x + b * sizes.source_frames * at.x_frame + part.group * sizes.channels,
                                  first - at.left, sizes, at, load, p.workspace + i * at.inputs, rows * at.inputs);
            transform_pair_gradient<point>(p.g + b * sizes.frames * at.out_frame + part.group * sizes.columns, first,
                                           sizes, at, gradients + i * at.outputs, rows * at.outputs);
        }
        OuterProduct product{};
        product.source_row = product.channels = sizes.channels;
        product.gradient_row = product.sums_row = sizes.columns;
        product.rows = count * p.cut.pairs * sizes.joints;
        for (std::int64_t i = 0; i < outer_points; ++i) {
            product.source = p.workspace + i * rows * at.inputs;
            product.gradient = gradients + i * rows * at.outputs;
            product.sums = part.sums + (point * outer_points + i) * point_size;
            accumulate_outer(product, 0, sizes.columns);
        }
    }
}

// Σ of the tail's taps.
void add_tail(const TemporalConvWeightParams<real>& p, const Part& part) {
    const TemporalConvSizes& sizes = p.sizes;
    const Layout at(sizes, p.map);
    const ConvLoad<real> load = load_of_group(p.load, part.group, sizes.channels);
    for (std::int64_t row = part.begin; row < part.end; ++row) {
        const real* x = p.x + row * sizes.source_frames * at.x_frame + part.group * sizes.channels;
        const real* g = p.g + row * sizes.frames * at.out_frame + part.group * sizes.columns;
        const TailSource source = tail_source(x, sizes, p.cut, at, load, p.workspace);
        OuterProduct product{};
        product.source_row = source.joint, product.gradient_row = at.out_row;
        product.sums_row = sizes.columns, product.channels = sizes.channels, product.rows = sizes.joints;
        for (std::int64_t t = nested_tile * p.cut.pairs; t < sizes.frames; ++t) {
            const Taps taps = taps_of(sizes, t, at.left);
            for (std::int64_t tap = taps.begin; tap < taps.end; ++tap) {
                product.source = source.frames + (t + tap - at.left - source.first) * sizes.joints * source.joint;
                product.gradient = g + t * at.out_frame;
                product.sums = part.sums + (all_points + tap) * sizes.channels * sizes.columns;
                accumulate_outer(product, 0, sizes.columns);
            }
        }
    }
}

}  // namespace

void nested_backward_weight(const TemporalConvWeightParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t point_size = sizes.channels * sizes.columns;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t point = item % (points + 1), group = item / (points + 1) % sizes.groups;
        const std::int64_t number = item / (points + 1) / sizes.groups;
        const Part part{group, number * sizes.rows / p.parts, (number + 1) * sizes.rows / p.parts,
                        p.partial + item / (points + 1) * (all_points + sizes.taps) * point_size};
        const std::int64_t sums = point < points ? outer_points : sizes.taps;
        for (std::int64_t i = 0; i < sums * point_size; ++i) part.sums[point * outer_points * point_size + i] = 0;
        if (point == 0) add_pairs<0>(p, part);
        if (point == 1) add_pairs<1>(p, part);
        if (point == 2) add_pairs<2>(p, part);
        if (point == 3) add_pairs<3>(p, part);
        if (point == 4) add_pairs<4>(p, part);
        if (point == 5) add_tail(p, part);
    }
}

void nested_merge(const TemporalConvMergeParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t point_size = sizes.channels * sizes.columns, column = sizes.channels * sizes.taps;
    const std::int64_t group_size = (all_points + sizes.taps) * point_size, part_size = sizes.groups * group_size;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / sizes.channels, c = item % sizes.channels;
        const real* from = p.partial + group * group_size + c * sizes.columns;
        real* to = p.weight_grad + (group * sizes.columns * sizes.channels + c) * sizes.taps;
        over_columns(sizes.columns, [&](auto step, std::int64_t n) {
            using Step = decltype(step);
            const auto sum = [&](std::int64_t place) {
                typename Step::Number total = Step::load(from + place * point_size + n);
                for (std::int64_t part = 1; part < p.parts; ++part)
                    total += Step::load(from + part * part_size + place * point_size + n);
                return total;
            };
            typename Step::Number triples[nested_triples][points];
            for (int point = 0; point < points; ++point) {
                typename Step::Number outer[outer_points], inner[nested_triples];
                for (int i = 0; i < outer_points; ++i) outer[i] = sum(point * outer_points + i);
                outer_weight_gradients(outer, inner);
                for (int q = 0; q < nested_triples; ++q) triples[q][point] = inner[q];
            }
            for (int q = 0; q < nested_triples; ++q) {
                typename Step::Number taps[tile];
                tap_gradients(triples[q], taps);
                for (int i = 0; i < tile; ++i) {
                    const std::int64_t tap = tile * q + i;
                    if (tap >= sizes.taps) break;
                    scatter(to + n * column + tap, column, p.cut.tail ? taps[i] + sum(all_points + tap) : taps[i]);
                }
            }
        });
    }
}

}  // namespace asma::cpu::ASMA_ISA
