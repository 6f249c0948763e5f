#include "cpu/temporal_conv.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

using cpu::FrameMap;
using cpu::TemporalConvSizes;

constexpr std::int64_t block_rows = 512;          // joints × frames of a work item: sources stay in the L2 cache
constexpr std::int64_t piece_products = 1 << 17;  // multiply-adds worth a thread's while
constexpr std::int64_t weight_grad_items = 32;    // pieces of a weight gradient, as far as the batch gives them
constexpr std::int64_t bias_part_rows = 512;      // rows that one float sum of a bias gradient takes

void check(bool right, const char* message) {
    if (!right) throw py::value_error(message);
}

void check_map(const Array& map, const char* what) {
    check(map.rank == 4 && map.dense({0, 2, 3, 1}), (std::string(what) + " must be a channels-last map").c_str());
}

// Sizes of the convolution of x (B, C_in, T, V) with weight to y (B, C_out, T', V), checked.
TemporalConvSizes sizes_of(const Array& x, const Array& weight, const Array& y, std::int64_t stride,
                           std::int64_t dilation, std::int64_t groups) {
    check_map(x, "x");
    check_map(y, "the output");
    check(weight.rank == 3 && weight.size(2) >= 1, "weight must have shape (C_out, C_in/groups, k)");
    check(stride >= 1 && dilation >= 1 && groups >= 1, "stride, dilation and groups must be at least 1");
    check(x.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0 && y.size(1) == weight.size(0) &&
              y.size(0) == x.size(0) && y.size(3) == x.size(3),
          "x, weight and the output do not fit together");
    TemporalConvSizes sizes{};
    sizes.rows = x.size(0), sizes.joints = x.size(3);
    sizes.source_frames = x.size(2), sizes.frames = y.size(2);
    sizes.groups = groups, sizes.channels = weight.size(1), sizes.columns = weight.size(0) / groups;
    sizes.taps = weight.size(2);
    return sizes;
}

// The input gradient is a convolution too: of the output's gradient, channels and columns exchanged.
TemporalConvSizes exchanged(TemporalConvSizes sizes) {
    std::swap(sizes.source_frames, sizes.frames);
    std::swap(sizes.channels, sizes.columns);
    return sizes;
}

// Frames of a block, all blocks about alike.
std::int64_t block_frames(const TemporalConvSizes& sizes) {
    const std::int64_t at_most = std::max<std::int64_t>(1, block_rows / std::max<std::int64_t>(1, sizes.joints));
    const std::int64_t blocks = std::max<std::int64_t>(1, (sizes.frames + at_most - 1) / at_most);
    return std::max<std::int64_t>(1, (sizes.frames + blocks - 1) / blocks);
}

// out = bias + the convolution of x with weight; column_axis is the axis of weight that out has.
template <class Real> void convolve(const Real* x, const Array& weight, int column_axis, const Real* bias, Real* out,
                                    const TemporalConvSizes& sizes, const FrameMap& map) {
    if (sizes.rows * sizes.frames * sizes.joints * sizes.groups * sizes.columns == 0) return;
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>();
    const std::int64_t packed_group = checked_product({cpu::packed_columns(sizes.columns), sizes.channels, sizes.taps});
    const std::int64_t slabs = cpu::slabs(sizes.columns);
    Scratch<Real> packed(checked_product({sizes.groups, packed_group}));

    cpu::TemporalConvPackParams<Real> pack{};
    pack.weight = weight.data<const Real>("weight");
    pack.packed = packed.data();
    pack.sizes = sizes;
    pack.group_stride = weight.size(0) / sizes.groups * weight.stride(0);
    pack.column_stride = weight.stride(column_axis), pack.channel_stride = weight.stride(1 - column_axis);
    pack.tap_stride = weight.stride(2);
    pack.packed_group = packed_group;
    const std::int64_t slab_weights = sizes.channels * sizes.taps * std::min(cpu::slab_columns, sizes.columns);
    parallel_for(sizes.groups * slabs, piece_products / 8 / std::max<std::int64_t>(1, slab_weights),
                 [&](std::int64_t begin, std::int64_t end) { kernels.temporal_conv_pack(pack, begin, end); });

    cpu::TemporalConvParams<Real> p{};
    p.x = x, p.packed = packed.data(), p.bias = bias, p.out = out;
    p.sizes = sizes;
    p.map = map;
    p.packed_group = packed_group;
    p.block_frames = block_frames(sizes);
    const std::int64_t item_products = p.block_frames * sizes.joints * std::max<std::int64_t>(1, slab_weights);
    const std::int64_t items =
        sizes.rows * ((sizes.frames + p.block_frames - 1) / p.block_frames) * sizes.groups * slabs;
    parallel_for(items, std::max<std::int64_t>(1, piece_products / item_products),
                 [&](std::int64_t begin, std::int64_t end) { kernels.temporal_conv(p, begin, end); });
}

// x (B, C_in, T, V), out (B, C_out, T', V): channels last, dense; weight (C_out, C_in/groups, k) and bias by strides.
void temporal_conv(const Array& x, const Array& weight, const std::optional<Array>& bias, std::int64_t stride,
                   std::int64_t left, std::int64_t dilation, std::int64_t groups, const Array& out) {
    const TemporalConvSizes sizes = sizes_of(x, weight, out, stride, dilation, groups);
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        Scratch<Real> dense_bias(bias ? weight.size(0) : 0);
        if (bias) {
            check(bias->rank == 1 && bias->size(0) == weight.size(0), "bias must have shape (C_out,)");
            const Real* from = bias->data<const Real>("bias");
            for (std::int64_t o = 0; o < weight.size(0); ++o) dense_bias.data()[o] = from[o * bias->stride(0)];
        }
        convolve<Real>(x.data<const Real>("x"), weight, 0, bias ? dense_bias.data() : nullptr, out.data<Real>("out"),
                       sizes, {stride, dilation, -left, 1});
    });
}

template <class Real> void weight_gradient(const Real* x, const Real* g, Real* weight_grad,
                                           const TemporalConvSizes& sizes, const FrameMap& map) {
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>();
    const std::int64_t pieces = sizes.groups * cpu::slabs(sizes.columns);
    cpu::TemporalConvWeightParams<Real> p{};
    p.parts = std::clamp<std::int64_t>(weight_grad_items / std::max<std::int64_t>(1, pieces), 1,
                                       std::max<std::int64_t>(1, sizes.rows));
    Scratch<Real> partial(checked_product({p.parts, sizes.groups, sizes.taps, sizes.channels, sizes.columns}));
    p.x = x, p.g = g, p.partial = partial.data();
    p.sizes = sizes;
    p.map = map;
    p.block_frames = block_frames(sizes);
    const std::int64_t item_products = sizes.rows / p.parts * sizes.frames * sizes.joints * sizes.taps *
                                       sizes.channels * std::min(cpu::slab_columns, sizes.columns);
    parallel_for(p.parts * pieces, piece_products / std::max<std::int64_t>(1, item_products),
                 [&](std::int64_t begin, std::int64_t end) { kernels.temporal_conv_backward_weight(p, begin, end); });
    const cpu::TemporalConvMergeParams<Real> merge{partial.data(), weight_grad, sizes, p.parts};
    const std::int64_t sums = p.parts * sizes.taps * sizes.columns;
    parallel_for(sizes.groups * sizes.channels, piece_products / 8 / std::max<std::int64_t>(1, sums),
                 [&](std::int64_t begin, std::int64_t end) { kernels.temporal_conv_merge(merge, begin, end); });
}

// Parts of the batch side by side, then the parts in order; one part's stretches are summed in the kernel.
template <class Real> void bias_gradient(const Real* g, Real* bias_grad, const TemporalConvSizes& sizes) {
    cpu::TemporalConvBiasParams<Real> p{};
    p.g = g;
    p.rows = sizes.rows * sizes.frames * sizes.joints;
    p.columns = sizes.groups * sizes.columns;
    p.parts = (p.rows + bias_part_rows - 1) / bias_part_rows;
    Scratch<double> partial(checked_product({p.parts, p.columns}));
    p.partial = partial.data();
    parallel_for(p.parts, 1, [&](std::int64_t begin, std::int64_t end) {
        cpu::kernels<Real>().temporal_conv_backward_bias(p, begin, end);
    });
    for (std::int64_t n = 0; n < p.columns; ++n) {
        double sum = 0;
        for (std::int64_t part = 0; part < p.parts; ++part) sum += partial.data()[part * p.columns + n];
        bias_grad[n] = static_cast<Real>(sum);
    }
}

// g (B, C_out, T', V), x and x_grad (B, C_in, T, V): channels last, dense; weight by strides; weight_grad and bias_grad
// dense. A gradient that is not wanted is None.
void temporal_conv_backward(const Array& g, const Array& x, const Array& weight, std::int64_t stride, std::int64_t left,
                            std::int64_t dilation, std::int64_t groups, const std::optional<Array>& x_grad,
                            const std::optional<Array>& weight_grad, const std::optional<Array>& bias_grad) {
    const TemporalConvSizes sizes = sizes_of(x, weight, g, stride, dilation, groups);
    with_real(g, "g", [&](auto zero) {
        using Real = decltype(zero);
        const Real* g_data = g.data<const Real>("g");
        if (x_grad) {
            check_map(*x_grad, "x_grad");
            check(x_grad->sizes == x.sizes, "x_grad must have the shape of x");
            convolve<Real>(g_data, weight, 1, nullptr, x_grad->data<Real>("x_grad"), exchanged(sizes),
                           {1, -dilation, left, stride});
        }
        if (weight_grad) {
            check(weight_grad->sizes == weight.sizes && weight_grad->dense({0, 1, 2}),
                  "weight_grad must be dense and have the shape of weight");
            weight_gradient<Real>(x.data<const Real>("x"), g_data, weight_grad->data<Real>("weight_grad"), sizes,
                                  {stride, dilation, -left, 1});
        }
        if (bias_grad) {
            check(bias_grad->rank == 1 && bias_grad->size(0) == g.size(1) && bias_grad->dense({0}),
                  "bias_grad must be dense and have shape (C_out,)");
            bias_gradient<Real>(g_data, bias_grad->data<Real>("bias_grad"), sizes);
        }
    });
}

}  // namespace

void bind_temporal_conv(py::module_& module) {
    module.def("temporal_conv", &temporal_conv, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
               py::arg("left"), py::arg("dilation"), py::arg("groups"), py::arg("out"), release_gil());
    module.def("temporal_conv_backward", &temporal_conv_backward, py::arg("g"), py::arg("x"), py::arg("weight"),
               py::arg("stride"), py::arg("left"), py::arg("dilation"), py::arg("groups"), py::arg("x_grad"),
               py::arg("weight_grad"), py::arg("bias_grad"), release_gil());
}

}  // namespace asma::bindings
