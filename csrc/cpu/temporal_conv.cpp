// Convolution along time on channels-last maps, and its gradients. A tap moves a whole frame, so for each tap the rows
// (joints of consecutive frames) are one contiguous stretch: the convolution is a product of rows with weights whose
// taps lie a fixed number of frames apart. Frames at the ends, where taps fall outside, take the taps they have.
#include "cpu/temporal_conv.hpp"

#include "cpu/conv_rows.hpp"
#include "cpu/micro_kernel.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

// The taps that an output frame has: first, first + step, …; the first reads `source_frame`.
struct FrameTaps {
    std::int64_t first, step, count, source_frame;
};

inline FrameTaps frame_taps(const FrameMap& map, const TemporalConvSizes& sizes, std::int64_t t) {
    FrameTaps found{0, 1, 0, 0};
    for (std::int64_t tap = 0; tap < sizes.taps; ++tap) {
        const std::int64_t position = t * map.rise + tap * map.step + map.offset;
        if (position < 0) continue;
        // Divisions cost as much as a row of 16 channels: a convolution (fall = 1) does without.
        if (map.fall != 1 && position % map.fall != 0) continue;
        const std::int64_t frame = map.fall != 1 ? position / map.fall : position;
        if (frame >= sizes.source_frames) continue;
        if (found.count == 0)
            found.first = tap, found.source_frame = frame;
        else if (found.count == 1)
            found.step = tap - found.first;
        ++found.count;
    }
    return found;
}

struct SlabColumns {
    std::int64_t begin, end;
};

inline SlabColumns slab_range(std::int64_t slab, std::int64_t columns) {
    const std::int64_t begin = slab * slab_columns, end = begin + slab_columns;
    return {begin, end < columns ? end : columns};
}

}  // namespace

void temporal_conv_pack(const TemporalConvPackParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const WeightLayout layout{p.column_stride, p.channel_stride, p.tap_stride,
                              sizes.columns,   sizes.channels,   sizes.taps};
    const std::int64_t per_group = slabs(sizes.columns);
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / per_group;
        const SlabColumns range = slab_range(item % per_group, sizes.columns);
        pack_weights(p.weight + group * p.group_stride, layout, range.begin, range.end,
                     p.packed + group * p.packed_group);
    }
}

namespace {

// The source frames of one row and group: as they stand, or loaded into the workspace from frame `first` on.
struct Source {
    const real* frames;
    std::int64_t first, joint;
    const real* frame(std::int64_t t, std::int64_t joints) const { return frames + (t - first) * joints * joint; }
};

Source source_frames(const real* x, const ConvLoad<real>& load, const TemporalConvSizes& sizes, std::int64_t row,
                     std::int64_t group, std::int64_t first, std::int64_t end, real* workspace) {
    const std::int64_t joint = sizes.groups * sizes.channels, frame = sizes.joints * joint;
    x += row * sizes.source_frames * frame + group * sizes.channels;
    if (!load.scale) return {x, 0, joint};
    first = first > 0 ? first : 0;
    end = end < sizes.source_frames ? end : sizes.source_frames;
    if (end > first)
        load_rows(x + first * frame, joint, (end - first) * sizes.joints, sizes.channels,
                  load.scale + group * sizes.channels, load.shift + group * sizes.channels, workspace);
    return {workspace, first, sizes.channels};
}

}  // namespace

void temporal_conv(const TemporalConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t blocks = (sizes.frames + p.block_frames - 1) / p.block_frames;
    const std::int64_t out_row = sizes.groups * sizes.columns, out_frame = sizes.joints * out_row;
    const bool runs = p.map.rise == 1 && p.map.fall == 1;  // the next frame's source is the next frame
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item % sizes.groups, block = item / sizes.groups % blocks;
        const std::int64_t row = item / sizes.groups / blocks, first = block * p.block_frames;
        const std::int64_t stop = first + p.block_frames < sizes.frames ? first + p.block_frames : sizes.frames;
        const Source source =
            source_frames(p.x, p.load, sizes, row, group, first * p.map.rise + p.map.offset,
                          (stop - 1) * p.map.rise + (sizes.taps - 1) * p.map.step + p.map.offset + 1, p.workspace);
        const std::int64_t at = (row * sizes.frames + first) * out_frame + group * sizes.columns;
        RowProduct product{};
        product.packed = p.packed + group * p.packed_group;
        product.bias = p.bias ? p.bias + group * sizes.columns : nullptr;
        product.source_row = source.joint, product.out_row = out_row;
        product.channels = sizes.channels;
        product.packed_taps = sizes.taps;
        for (std::int64_t slab = 0; slab < slabs(sizes.columns); ++slab) {
            const SlabColumns range = slab_range(slab, sizes.columns);
            FrameTaps taps = frame_taps(p.map, sizes, first);
            for (std::int64_t t = first; t < stop;) {
                std::int64_t next = t + 1;
                FrameTaps following = taps;
                for (; next < stop; ++next) {
                    following = frame_taps(p.map, sizes, next);
                    if (!runs || following.first != taps.first || following.count != taps.count) break;
                }
                product.source = source.frame(taps.count ? taps.source_frame : source.first, sizes.joints);
                product.source_tap = taps.step * p.map.step / p.map.fall * sizes.joints * source.joint;
                product.out = p.out + at + (t - first) * out_frame;
                product.rows = (next - t) * sizes.joints;
                product.first_tap = taps.first, product.tap_step = taps.step, product.taps = taps.count;
                multiply_rows(product, range.begin, range.end);
                t = next;
                taps = following;
            }
        }
        double* sums = p.store.sums ? p.store.sums + item * 2 * sizes.columns : nullptr;
        for (std::int64_t i = 0; sums && i < 2 * sizes.columns; ++i) sums[i] = 0;
        finish_rows(p.store, p.out, at, out_row, (stop - first) * sizes.joints, group * sizes.columns, sizes.columns,
                    sums);
    }
}

void temporal_conv_backward_weight(const TemporalConvWeightParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t per_group = slabs(sizes.columns);
    OuterProduct product{};
    product.gradient_row = sizes.groups * sizes.columns;
    product.sums_row = sizes.columns;
    product.channels = sizes.channels;
    const std::int64_t g_frame = sizes.joints * product.gradient_row;
    for (std::int64_t item = begin; item < end; ++item) {
        const SlabColumns range = slab_range(item % per_group, sizes.columns);
        const std::int64_t group = item / per_group % sizes.groups, part = item / per_group / sizes.groups;
        real* sums = p.partial + (part * sizes.groups + group) * sizes.taps * sizes.channels * sizes.columns;
        for (std::int64_t c = 0; c < sizes.taps * sizes.channels; ++c)
            for (std::int64_t n = range.begin; n < range.end; ++n) sums[c * sizes.columns + n] = 0;
        for (std::int64_t row = part * sizes.rows / p.parts; row < (part + 1) * sizes.rows / p.parts; ++row) {
            const Source x = source_frames(p.x, p.load, sizes, row, group, 0, sizes.source_frames, p.workspace);
            product.source_row = x.joint;
            const real* g = p.g + row * sizes.frames * g_frame + group * sizes.columns;
            for (std::int64_t block = 0; block < sizes.frames; block += p.block_frames)
                for (std::int64_t tap = 0; tap < sizes.taps; ++tap) {
                    const std::int64_t shift = tap * p.map.step + p.map.offset, stride = p.map.rise;
                    // Output frames of the block whose source frame t·stride + shift lies inside.
                    const std::int64_t start = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
                    const std::int64_t room = sizes.source_frames - 1 - shift;
                    const std::int64_t end_of_source = room < 0 ? 0 : room / stride + 1;
                    const std::int64_t first = start > block ? start : block;
                    const std::int64_t end_of_block =
                        block + p.block_frames < sizes.frames ? block + p.block_frames : sizes.frames;
                    const std::int64_t stop = end_of_source < end_of_block ? end_of_source : end_of_block;
                    if (first >= stop) continue;
                    product.source = x.frame(first * stride + shift, sizes.joints);
                    product.gradient = g + first * g_frame;
                    product.sums = sums + tap * sizes.channels * sizes.columns;
                    product.rows = sizes.joints;
                    product.stretches = stop - first;
                    product.source_stretch = stride * sizes.joints * x.joint;
                    product.gradient_stretch = g_frame;
                    accumulate_outer(product, range.begin, range.end);
                }
        }
    }
}

void temporal_conv_merge(const TemporalConvMergeParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t tap_size = sizes.channels * sizes.columns, part_size = sizes.groups * sizes.taps * tap_size;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t group = item / sizes.channels, c = item % sizes.channels;
        const real* partial = p.partial + group * sizes.taps * tap_size + c * sizes.columns;
        real* to = p.weight_grad + (group * sizes.columns * sizes.channels + c) * sizes.taps;
        const std::int64_t column = sizes.channels * sizes.taps;
        for (std::int64_t tap = 0; tap < sizes.taps; ++tap, partial += tap_size) {
            std::int64_t n = 0;
            for (; n + lanes <= sizes.columns; n += lanes) {
                Vec sums = load(partial + n);
                for (std::int64_t part = 1; part < p.parts; ++part) sums += load(partial + part * part_size + n);
                for (int lane = 0; lane < lanes; ++lane) to[(n + lane) * column + tap] = sums[lane];
            }
            for (; n < sizes.columns; ++n) {
                real sum = 0;
                for (std::int64_t part = 0; part < p.parts; ++part) sum += partial[part * part_size + n];
                to[n * column + tap] = sum;
            }
        }
    }
}

void temporal_conv_backward_bias(const TemporalConvBiasParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t first = part * p.rows / p.parts, stop = (part + 1) * p.rows / p.parts;
        double* sums_out = p.partial + part * p.columns;
        std::int64_t n = 0;
        for (; n + lanes <= p.columns; n += lanes) {
            Vec even{}, odd{};  // two chains hide the latency of an addition
            std::int64_t r = first;
            for (; r + 1 < stop; r += 2) {
                even += load(p.g + r * p.columns + n);
                odd += load(p.g + (r + 1) * p.columns + n);
            }
            if (r < stop) even += load(p.g + r * p.columns + n);
            for (int lane = 0; lane < lanes; ++lane)
                sums_out[n + lane] = static_cast<double>(even[lane]) + static_cast<double>(odd[lane]);
        }
        for (; n < p.columns; ++n) {
            double sum = 0;
            for (std::int64_t r = first; r < stop; ++r) sum += static_cast<double>(p.g[r * p.columns + n]);
            sums_out[n] = sum;
        }
    }
}

void add_sums_grad(const AddSumsGradParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t first = block * sums_grad_rows, left = p.rows - first, at = first * p.columns;
        add_sums_grad(p.g + at, p.y + at, left < sums_grad_rows ? left : sums_grad_rows, p.columns, p.sums_grad,
                      p.out + at);
    }
}

}  // namespace asma::cpu::ASMA_ISA
