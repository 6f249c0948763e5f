// Convolution along time on channels-last maps, and its gradients. A tap moves a whole frame, so for each tap the rows
// (joints of consecutive frames) are one contiguous stretch: the convolution is a product of rows with weights whose
// taps lie a fixed number of frames apart. Frames at the ends, where taps fall outside, take the taps they have.
#include "cpu/temporal_conv.hpp"

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

void temporal_conv(const TemporalConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t per_group = slabs(sizes.columns);
    const std::int64_t blocks = (sizes.frames + p.block_frames - 1) / p.block_frames;
    const std::int64_t source_row = sizes.groups * sizes.channels, out_row = sizes.groups * sizes.columns;
    const bool runs = p.map.rise == 1 && p.map.fall == 1;  // the next frame's source is the next frame
    for (std::int64_t item = begin; item < end; ++item) {
        const SlabColumns range = slab_range(item % per_group, sizes.columns);
        const std::int64_t group = item / per_group % sizes.groups, block = item / per_group / sizes.groups % blocks;
        const std::int64_t row = item / per_group / sizes.groups / blocks;
        const real* x = p.x + row * sizes.source_frames * sizes.joints * source_row + group * sizes.channels;
        real* out = p.out + row * sizes.frames * sizes.joints * out_row + group * sizes.columns;
        RowProduct product{};
        product.packed = p.packed + group * p.packed_group;
        product.bias = p.bias ? p.bias + group * sizes.columns : nullptr;
        product.source_row = source_row, product.out_row = out_row;
        product.channels = sizes.channels;
        product.packed_taps = sizes.taps;
        std::int64_t t = block * p.block_frames;
        const std::int64_t stop = t + p.block_frames < sizes.frames ? t + p.block_frames : sizes.frames;
        FrameTaps taps = frame_taps(p.map, sizes, t);
        while (t < stop) {
            std::int64_t next = t + 1;
            FrameTaps following = taps;
            for (; next < stop; ++next) {
                following = frame_taps(p.map, sizes, next);
                if (!runs || following.first != taps.first || following.count != taps.count) break;
            }
            product.source = x + taps.source_frame * sizes.joints * source_row;
            product.source_tap = taps.step * p.map.step / p.map.fall * sizes.joints * source_row;
            product.out = out + t * sizes.joints * out_row;
            product.rows = (next - t) * sizes.joints;
            product.first_tap = taps.first, product.tap_step = taps.step, product.taps = taps.count;
            multiply_rows(product, range.begin, range.end);
            t = next;
            taps = following;
        }
    }
}

void temporal_conv_backward_weight(const TemporalConvWeightParams<real>& p, std::int64_t begin, std::int64_t end) {
    const TemporalConvSizes& sizes = p.sizes;
    const std::int64_t per_group = slabs(sizes.columns);
    OuterProduct product{};
    product.source_row = sizes.groups * sizes.channels, product.gradient_row = sizes.groups * sizes.columns;
    product.sums_row = sizes.columns;
    product.channels = sizes.channels;
    const std::int64_t x_frame = sizes.joints * product.source_row, g_frame = sizes.joints * product.gradient_row;
    for (std::int64_t item = begin; item < end; ++item) {
        const SlabColumns range = slab_range(item % per_group, sizes.columns);
        const std::int64_t group = item / per_group % sizes.groups, part = item / per_group / sizes.groups;
        real* sums = p.partial + (part * sizes.groups + group) * sizes.taps * sizes.channels * sizes.columns;
        for (std::int64_t c = 0; c < sizes.taps * sizes.channels; ++c)
            for (std::int64_t n = range.begin; n < range.end; ++n) sums[c * sizes.columns + n] = 0;
        for (std::int64_t row = part * sizes.rows / p.parts; row < (part + 1) * sizes.rows / p.parts; ++row) {
            const real* x = p.x + row * sizes.source_frames * x_frame + group * sizes.channels;
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
                    product.source = x + (first * stride + shift) * x_frame;
                    product.gradient = g + first * g_frame;
                    product.sums = sums + tap * sizes.channels * sizes.columns;
                    product.rows = sizes.joints;
                    product.stretches = stop - first;
                    product.source_stretch = stride * x_frame;
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
        for (std::int64_t n = 0; n < sizes.columns; ++n) {
            real* to = p.weight_grad + ((group * sizes.columns + n) * sizes.channels + c) * sizes.taps;
            for (std::int64_t tap = 0; tap < sizes.taps; ++tap) {
                real sum = 0;
                for (std::int64_t part = 0; part < p.parts; ++part)
                    sum += partial[part * part_size + tap * tap_size + n];
                to[tap] = sum;
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

}  // namespace asma::cpu::ASMA_ISA
