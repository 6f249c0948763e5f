// A frame has few rows (joints × bodies), and its layers little work: no plan, no list and no copy is made here.
#include "cpu/frame_step.hpp"

#include "cpu/conv_rows.hpp"
#include "cpu/graph_conv_rows.hpp"
#include "cpu/micro_kernel.hpp"

namespace asma::cpu::ASMA_ISA {
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
