#include "cpu/temporal_conv.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/temporal_conv_plan.hpp"

namespace asma::bindings {
namespace {

using cpu::ConvPlan;
using cpu::ConvWay;
using cpu::FrameMap;
using cpu::TemporalConvSizes;

constexpr std::int64_t piece_products = 1 << 17;  // multiply-adds worth a thread's while
constexpr std::int64_t weight_grad_items = 18;    // pieces of a weight gradient, as far as the batch gives them
constexpr std::int64_t bias_part_rows = 512;      // rows that one float sum of a bias gradient takes
constexpr std::int64_t gradient_rows = 256;       // joints × tiles whose points a weight gradient has in work

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

template <class Real> void pack_weights(const Array& weight, int column_axis, const TemporalConvSizes& sizes,
                                        const ConvPlan& plan, std::int64_t packed_group, Real* packed) {
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>(sizes.columns);
    cpu::TemporalConvPackParams<Real> pack{};
    pack.weight = weight.data<const Real>("weight") + (plan.reversed ? (sizes.taps - 1) * weight.stride(2) : 0);
    pack.packed = packed;
    pack.sizes = sizes;
    pack.group_stride = weight.size(0) / sizes.groups * weight.stride(0);
    pack.column_stride = weight.stride(column_axis), pack.channel_stride = weight.stride(1 - column_axis);
    pack.tap_stride = plan.reversed ? -weight.stride(2) : weight.stride(2);
    pack.packed_group = packed_group;
    const std::int64_t slab_weights = sizes.channels * plan.matrices * std::min(cpu::slab_columns, sizes.columns);
    const auto kernel = cpu::pack_kernel(kernels, plan.way);
    parallel_for(sizes.groups * cpu::slabs(sizes.columns), piece_products / 8 / std::max<std::int64_t>(1, slab_weights),
                 [&](std::int64_t begin, std::int64_t end) { kernel(pack, begin, end); });
}

// Sums of the items of each group (items, 2, columns), in order, → first and second (groups·columns).
template <class Sum>
void merge_sums(const double* partial, const TemporalConvSizes& sizes, std::int64_t items, Sum* first, Sum* second) {
    const std::int64_t columns = sizes.columns;
    for (std::int64_t group = 0; group < sizes.groups; ++group)
        for (std::int64_t n = 0; n < columns; ++n) {
            double sums[2] = {};
            for (std::int64_t item = group; item < items; item += sizes.groups)
                for (int i = 0; i < 2; ++i) sums[i] += partial[(item * 2 + i) * columns + n];
            if (first) first[group * columns + n] = static_cast<Sum>(sums[0]);
            if (second) second[group * columns + n] = static_cast<Sum>(sums[1]);
        }
}

// out = bias + the convolution of x with weight, as load and store say; column_axis is the axis of weight that out has.
// The two sums that store.gate or with_sums asks for go to first_sum and second_sum, each where it is not null.
template <class Real, class Sum> void convolve(const Real* x, const Array& weight, int column_axis, const Real* bias,
                                               Real* out, const TemporalConvSizes& sizes, FrameMap map,
                                               const cpu::ConvLoad<Real>& load, cpu::ConvStore<Real> store,
                                               bool with_sums, Sum* first_sum, Sum* second_sum) {
    if (sizes.rows * sizes.frames * sizes.joints * sizes.groups * sizes.columns == 0) {
        for (std::int64_t n = 0; with_sums && n < sizes.groups * sizes.columns; ++n) {
            if (first_sum) first_sum[n] = 0;
            if (second_sum) second_sum[n] = 0;
        }
        return;
    }
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>(sizes.columns);
    const ConvPlan plan = cpu::conv_plan(sizes, map);
    const cpu::ConvCut cut = cpu::conv_cut(sizes, plan, load.scale != nullptr);
    const std::int64_t packed_group = cpu::packed_weights(sizes, plan);
    Scratch<Real> packed(checked_product({sizes.groups, packed_group}));
    pack_weights<Real>(weight, column_axis, sizes, plan, packed_group, packed.data());

    cpu::TemporalConvParams<Real> p{};
    p.x = x, p.packed = packed.data(), p.bias = bias, p.out = out;
    p.sizes = sizes;
    p.map = plan.map, p.cut = plan.cut;
    p.packed_group = packed_group, p.block_frames = cut.block_frames, p.together = cut.together;
    p.load = load;
    p.store = store;
    Scratch<double> sums(with_sums ? checked_product({cut.items, 2, sizes.columns}) : 0);
    if (with_sums) p.store.sums = sums.data();
    const auto kernel = cpu::conv_kernel(kernels, plan.way);
    parallel_for(cut.items, cut.grain, [&](std::int64_t begin, std::int64_t end) {
        Scratch<Real> memory(cut.workspace);
        cpu::TemporalConvParams<Real> mine = p;
        mine.workspace = memory.data();
        kernel(mine, begin, end);
    });
    if (with_sums) merge_sums(sums.data(), sizes, cut.items, first_sum, second_sum);
}

// A vector of one number a channel, dense.
template <class Real>
const Real* channel_vector(const std::optional<Array>& array, std::int64_t channels, const char* what) {
    if (!array) return nullptr;
    check_sizes(*array, {channels}, what);
    check(array->dense({0}), (std::string(what) + " must be dense").c_str());
    return array->data<const Real>(what);
}

double* sums_of(const std::optional<Array>& array, std::int64_t channels, const char* what) {
    if (!array) return nullptr;
    check_sizes(*array, {2, channels}, what);
    check(array->dense({0, 1}), (std::string(what) + " must be dense").c_str());
    return array->data<double>(what);
}

// x (B, C_in, T, V), out and residual (B, C_out, T', V): channels last, dense; weight (C_out, C_in/groups, k) by
// strides; the vectors dense. With scale and shift x is read as relu(scale·x + shift). sums (2, C_out) are of the
// convolution alone, and exclude residual and relu.
void temporal_conv(const Array& x, const Array& weight, const std::optional<Array>& bias, std::int64_t stride,
                   std::int64_t left, std::int64_t dilation, std::int64_t groups, const Array& out,
                   const std::optional<Array>& scale, const std::optional<Array>& shift,
                   const std::optional<Array>& residual, bool relu, const std::optional<Array>& sums) {
    const TemporalConvSizes sizes = sizes_of(x, weight, out, stride, dilation, groups);
    check(bool(scale) == bool(shift), "scale and shift must be given together");
    check(!sums || !(residual || relu), "sums exclude residual and relu");
    double* const sums_out = sums_of(sums, weight.size(0), "sums");
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::ConvStore<Real> store{};
        if (residual) {
            check_map(*residual, "residual");
            check(residual->sizes == out.sizes, "residual must have the shape of the output");
            store.residual = residual->data<const Real>("residual");
        }
        store.relu = relu;
        const cpu::ConvLoad<Real> load{channel_vector<Real>(scale, x.size(1), "scale"),
                                       channel_vector<Real>(shift, x.size(1), "shift")};
        convolve<Real>(x.data<const Real>("x"), weight, 0, channel_vector<Real>(bias, weight.size(0), "bias"),
                       out.data<Real>("out"), sizes, {stride, dilation, -left, 1}, load, store, sums_out != nullptr,
                       sums_out, sums_out ? sums_out + weight.size(0) : nullptr);
    });
}

// The same of a weight gradient; sets how many rows are in work together.
template <class Real> std::int64_t gradient_workspace(cpu::TemporalConvWeightParams<Real>& p, const ConvPlan& plan) {
    const TemporalConvSizes& sizes = p.sizes;
    const auto maps = [&](std::int64_t inputs, std::int64_t outputs) {
        return checked_product({sizes.joints, checked_sum(checked_product({inputs, sizes.channels}),
                                                          checked_product({outputs, sizes.columns}))});
    };
    if (plan.way == ConvWay::direct) return p.load.scale ? maps(sizes.source_frames, 0) : 0;
    const std::int64_t units = plan.way == ConvWay::nested ? plan.cut.pairs : cpu::winograd_tiles(sizes.frames);
    p.together = std::max<std::int64_t>(1, gradient_rows / std::max<std::int64_t>(1, units * sizes.joints));
    if (plan.way == ConvWay::winograd)
        return maps(checked_product({p.together, units + cpu::winograd_triples(sizes.taps) - 1}),
                    checked_product({p.together, units}));
    const std::int64_t pairs = checked_product({p.together, units, cpu::nested_points});
    return std::max(maps(pairs, pairs), maps(plan.cut.tail + sizes.taps, 0));
}

template <class Real> void weight_gradient(const Real* x, const Real* g, Real* weight_grad,
                                           const TemporalConvSizes& sizes, const FrameMap& map,
                                           const cpu::ConvLoad<Real>& load) {
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>(sizes.columns);
    const ConvPlan plan = cpu::conv_plan(sizes, map);
    const std::int64_t pieces = sizes.groups * (plan.way == ConvWay::nested     ? cpu::winograd_points + 1
                                                : plan.way == ConvWay::winograd ? cpu::winograd_points
                                                                                : cpu::slabs(sizes.columns));
    cpu::TemporalConvWeightParams<Real> p{};
    p.parts = std::clamp<std::int64_t>(weight_grad_items / std::max<std::int64_t>(1, pieces), 1,
                                       std::max<std::int64_t>(1, sizes.rows));
    Scratch<Real> partial(checked_product({p.parts, sizes.groups, plan.matrices, sizes.channels, sizes.columns}));
    p.x = x, p.g = g, p.partial = partial.data();
    p.sizes = sizes;
    p.map = map;
    p.load = load;
    p.cut = plan.cut;
    p.block_frames = cpu::conv_block_frames(sizes, plan);
    const std::int64_t workspace = gradient_workspace(p, plan);
    const std::int64_t item_products = sizes.rows / p.parts * sizes.frames * sizes.joints * sizes.taps *
                                       sizes.channels * std::min(cpu::slab_columns, sizes.columns);
    const auto kernel = plan.way == ConvWay::nested     ? kernels.nested_backward_weight
                        : plan.way == ConvWay::winograd ? kernels.winograd_backward_weight
                                                        : kernels.temporal_conv_backward_weight;
    parallel_for(p.parts * pieces, piece_products / std::max<std::int64_t>(1, item_products),
                 [&](std::int64_t begin, std::int64_t end) {
                     Scratch<Real> memory(workspace);
                     cpu::TemporalConvWeightParams<Real> mine = p;
                     mine.workspace = memory.data();
                     kernel(mine, begin, end);
                 });
    const cpu::TemporalConvMergeParams<Real> merge{partial.data(), weight_grad, sizes, p.parts, plan.cut};
    const auto merge_kernel = plan.way == ConvWay::nested     ? kernels.nested_merge
                              : plan.way == ConvWay::winograd ? kernels.winograd_merge
                                                              : kernels.temporal_conv_merge;
    const std::int64_t sums = p.parts * plan.matrices * sizes.columns;
    parallel_for(sizes.groups * sizes.channels, piece_products / 8 / std::max<std::int64_t>(1, sums),
                 [&](std::int64_t begin, std::int64_t end) { merge_kernel(merge, begin, end); });
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

// What a backward pass makes, each where it is given: x_grad channels last, the others dense.
struct Gradients {
    const std::optional<Array>& x;
    const std::optional<Array>& weight;
    const std::optional<Array>& bias;
    const std::optional<Array>& scale;
    const std::optional<Array>& shift;
};

template <class Real> void backward(const Real* g, const Array& x, const Array& weight, const TemporalConvSizes& sizes,
                                    std::int64_t stride, std::int64_t left, std::int64_t dilation,
                                    const cpu::ConvLoad<Real>& load, const Gradients& wanted) {
    const Real* const source = x.data<const Real>("x");
    if (wanted.x || wanted.scale || wanted.shift) {
        Scratch<Real> unwanted(wanted.x ? 0 : x.count());
        cpu::ConvStore<Real> store{};
        if (load.scale) store.gate = source, store.gate_scale = load.scale, store.gate_shift = load.shift;
        convolve<Real>(g, weight, 1, nullptr, wanted.x ? wanted.x->data<Real>("x_grad") : unwanted.data(),
                       exchanged(sizes), {1, -dilation, left, stride}, {}, store, load.scale != nullptr,
                       wanted.scale ? wanted.scale->data<Real>("scale_grad") : nullptr,
                       wanted.shift ? wanted.shift->data<Real>("shift_grad") : nullptr);
    }
    if (wanted.weight)
        weight_gradient<Real>(source, g, wanted.weight->data<Real>("weight_grad"), sizes, {stride, dilation, -left, 1},
                              load);
    if (wanted.bias) bias_gradient<Real>(g, wanted.bias->data<Real>("bias_grad"), sizes);
}

// g and y (B, C_out, T', V), x and x_grad (B, C_in, T, V): channels last, dense; weight by strides; the others dense.
// A gradient that is not wanted is None. With y, the forward's result, and sums_grad (2, C_out) g is that of y and of
// its sums.
void temporal_conv_backward(const Array& g, const Array& x, const Array& weight, std::int64_t stride, std::int64_t left,
                            std::int64_t dilation, std::int64_t groups, const std::optional<Array>& x_grad,
                            const std::optional<Array>& weight_grad, const std::optional<Array>& bias_grad,
                            const std::optional<Array>& scale, const std::optional<Array>& shift,
                            const std::optional<Array>& scale_grad, const std::optional<Array>& shift_grad,
                            const std::optional<Array>& y, const std::optional<Array>& sums_grad) {
    const TemporalConvSizes sizes = sizes_of(x, weight, g, stride, dilation, groups);
    check(bool(scale) == bool(shift), "scale and shift must be given together");
    check(bool(scale) || !(scale_grad || shift_grad), "scale_grad and shift_grad need scale and shift");
    check(bool(y) == bool(sums_grad), "y and sums_grad must be given together");
    if (x_grad) {
        check_map(*x_grad, "x_grad");
        check(x_grad->sizes == x.sizes, "x_grad must have the shape of x");
    }
    if (weight_grad)
        check(weight_grad->sizes == weight.sizes && weight_grad->dense({0, 1, 2}),
              "weight_grad must be dense and have the shape of weight");
    with_real(g, "g", [&](auto zero) {
        using Real = decltype(zero);
        channel_vector<Real>(bias_grad, g.size(1), "bias_grad");
        channel_vector<Real>(scale_grad, x.size(1), "scale_grad");
        channel_vector<Real>(shift_grad, x.size(1), "shift_grad");
        const cpu::ConvLoad<Real> load{channel_vector<Real>(scale, x.size(1), "scale"),
                                       channel_vector<Real>(shift, x.size(1), "shift")};
        const Gradients wanted{x_grad, weight_grad, bias_grad, scale_grad, shift_grad};
        Scratch<Real> whole(y ? g.count() : 0);
        if (y) {
            check_map(*y, "y");
            check(y->sizes == g.sizes, "y must have the shape of g");
            cpu::AddSumsGradParams<Real> p{};
            p.g = g.data<const Real>("g"), p.y = y->data<const Real>("y"), p.out = whole.data();
            p.sums_grad = sums_of(sums_grad, g.size(1), "sums_grad");
            p.rows = sizes.rows * sizes.frames * sizes.joints, p.columns = g.size(1);
            parallel_for(
                (p.rows + cpu::sums_grad_rows - 1) / cpu::sums_grad_rows, 1,
                [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().add_sums_grad(p, begin, end); });
        }
        backward<Real>(y ? whole.data() : g.data<const Real>("g"), x, weight, sizes, stride, left, dilation, load,
                       wanted);
    });
}

}  // namespace

void bind_temporal_conv(py::module_& module) {
    module.def("temporal_conv", &temporal_conv, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
               py::arg("left"), py::arg("dilation"), py::arg("groups"), py::arg("out"), py::arg("scale") = py::none(),
               py::arg("shift") = py::none(), py::arg("residual") = py::none(), py::arg("relu") = false,
               py::arg("sums") = py::none(), release_gil());
    module.def("temporal_conv_backward", &temporal_conv_backward, py::arg("g"), py::arg("x"), py::arg("weight"),
               py::arg("stride"), py::arg("left"), py::arg("dilation"), py::arg("groups"), py::arg("x_grad"),
               py::arg("weight_grad"), py::arg("bias_grad"), py::arg("scale") = py::none(),
               py::arg("shift") = py::none(), py::arg("scale_grad") = py::none(), py::arg("shift_grad") = py::none(),
               py::arg("y") = py::none(), py::arg("sums_grad") = py::none(), release_gil());
}

}  // namespace asma::bindings
