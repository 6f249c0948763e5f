// Gradients of a convolution along time. That of what it reads is a convolution again, for each residue of the frames
// by the stride one; those of weight and bias are sums over places of products (cuda/sums.hpp).
#include <algorithm>
#include <numeric>

#include "cuda/sums.hpp"
#include "cuda/temporal_conv.hpp"

namespace asma::cuda {
namespace {

constexpr const char* op = "temporal_conv_backward";

// What tap and channel n = tap · ins + c of a group read at a place of the result.
template <class T> struct Taps {
    const T* x;
    std::int64_t frames, first, step, dilation, channels;
    int joints, ins, taps;

    struct Column {
        std::int64_t frame, channel;
    };

    struct Row {
        const Taps& of;
        const T* row;

        __device__ Column column(int group, int n) const {
            return {of.first + n / of.ins * of.dilation, std::int64_t{group} * of.ins + n % of.ins};
        }
        __device__ float at(const Column& column, int place) const {
            const int frame = place / of.joints;
            const std::int64_t t = frame * of.step + column.frame;
            if (t < 0 || t >= of.frames) return 0;
            return to_float(load(row + (t * of.joints + place - frame * of.joints) * of.channels + column.channel));
        }
        __device__ float carried(int, int) const { return 1; }
    };

    __device__ Row begin(std::int64_t b, unsigned char*) const { return {*this, x + b * frames * joints * channels}; }
};

template <class T> void x_gradient(const Array& g, const Array& weight, std::int64_t stride, std::int64_t left,
                                   std::int64_t dilation, std::int64_t groups, const Array& x_grad, bool use_tf32) {
    Convolution<T> p{};
    const T* weights = weight.data<const T>("weight", g.device);
    p.x = g.data<const T>("g", g.device), p.out = x_grad.data<T>("x_grad", g.device);
    p.rows = g.size(0), p.frames = g.size(2), p.out_frames = x_grad.size(2);
    p.joints = static_cast<int>(g.size(3)), p.groups = static_cast<int>(groups);
    p.ins = static_cast<int>(weight.size(0) / groups), p.outs = static_cast<int>(weight.size(1));
    p.w_group = p.ins * weight.stride(0), p.w_out = weight.stride(1), p.w_in = weight.stride(0);
    // Taps that read frames of one residue are `apart` from each other.
    const std::int64_t taps = weight.size(2), apart = stride / std::gcd(stride, dilation);
    for (std::int64_t residue = 0; residue < std::min(stride, p.out_frames); ++residue) {
        std::int64_t tap = 0;
        while (tap < std::min(taps, apart) && (residue + left - tap * dilation) % stride != 0) ++tap;
        p.taps = tap < std::min(taps, apart) ? static_cast<int>((taps - 1 - tap) / apart + 1) : 0;
        const std::int64_t last = tap + (p.taps - 1) * apart;  // it reads the earliest frame of g
        p.steps = (p.out_frames - residue + stride - 1) / stride, p.first = residue, p.step = stride;
        p.x_first = p.taps > 0 ? (residue + left - last * dilation) / stride : 0, p.x_step = 1;
        p.x_dilation = apart * dilation / stride;
        p.weight = p.taps > 0 ? weights + last * weight.stride(2) : weights, p.w_tap = -apart * weight.stride(2);
        convolve(op, p, use_tf32, g.stream);
    }
}

// Where in the workspace each kind of sums begins, in floats, and its shares.
struct Workspace {
    std::int64_t biases, total;  // products come first
    int product_shares, bias_shares;

    static Workspace of(const Array& g, const Array& weight, std::int64_t groups, bool weights, bool bias) {
        const std::int64_t outs = weight.size(0), numbers = weight.size(1) * weight.size(2);
        Workspace space{};
        space.product_shares = shares_of_products(g.size(0), groups, outs / std::max<std::int64_t>(1, groups), numbers);
        space.bias_shares = shares_of(g.size(0), (outs + 63) / 64);
        space.biases = weights ? space.product_shares * outs * numbers : 0;
        space.total = space.biases + (bias ? space.bias_shares * outs : 0);
        return space;
    }
};

template <class T> void parameter_gradients(const Array& g, const Array& x, const Array& weight, const Taps<T>& taps,
                                            std::int64_t groups, const Map& weight_grad, const Map& bias_grad,
                                            const Workspace& space, float* workspace, bool use_tf32) {
    const std::int64_t outs = weight.size(0);
    ProductSums<T> p{};
    p.g = g.data<const T>("g", x.device), p.sums = workspace;
    p.rows = g.size(0), p.places = static_cast<int>(g.size(2) * g.size(3)), p.groups = static_cast<int>(groups);
    p.outs = static_cast<int>(outs / groups), p.numbers = taps.ins * taps.taps;
    if (weight_grad && weight_grad->count() > 0) {
        check_sizes(*weight_grad, {outs, weight.size(1), weight.size(2)}, "weight_grad");
        if (!weight_grad->dense({0, 1, 2})) throw std::invalid_argument("weight_grad must be dense");
        p.shares = space.product_shares;
        sum_all_products(op, p, taps, 0, use_tf32, g.stream);
        Merge<T> merged{};
        merged.from = p.sums, merged.to = weight_grad->data<T>("weight_grad", g.device);
        merged.shares = p.shares, merged.share = outs * p.numbers;
        merged.a = p.numbers, merged.b = 1, merged.c = taps.ins;
        merged.size_b = taps.ins, merged.size_c = taps.taps;
        merge(op, merged, weight_grad->count(), g.stream);
    }
    if (bias_grad && outs > 0) {
        check_sizes(*bias_grad, {outs}, "bias_grad");
        if (!bias_grad->dense({0})) throw std::invalid_argument("bias_grad must be dense");
        float* sums = workspace + space.biases;
        p.shares = space.bias_shares;
        sum_all_biases(op, p, taps, 1, 0, sums, g.stream);
        Merge<T> merged{};
        merged.from = sums, merged.to = bias_grad->data<T>("bias_grad", g.device);
        merged.shares = p.shares, merged.share = outs, merged.a = 1, merged.size_b = merged.size_c = 1;
        merge(op, merged, outs, g.stream);
    }
}

}  // namespace

std::int64_t temporal_conv_backward_workspace(const Array& g, const Array&, const Array& weight, std::int64_t,
                                              std::int64_t, std::int64_t, std::int64_t groups, const Map&,
                                              const Map& weight_grad, const Map& bias_grad) {
    return Workspace::of(g, weight, groups, bool(weight_grad), bool(bias_grad)).total;
}

void temporal_conv_backward(const Array& g, const Array& x, const Array& weight, std::int64_t stride, std::int64_t left,
                            std::int64_t dilation, std::int64_t groups, const Map& x_grad, const Map& weight_grad,
                            const Map& bias_grad, bool use_tf32, const Array& workspace) {
    with_float(g, "g", [&](auto zero) {
        using T = decltype(zero);
        check_convolution(x, g, weight, groups);
        for (const Array* map : {&g, &x})
            check_places(map->size(0) * map->size(2) * map->size(3), "maps have more places");
        if (x_grad) {
            check_convolution(*x_grad, g, weight, groups);
            check_sizes(*x_grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, "x_grad");
            x_gradient<T>(g, weight, stride, left, dilation, groups, *x_grad, use_tf32);
        }
        const Workspace space = Workspace::of(g, weight, groups, bool(weight_grad), bool(bias_grad));
        check_sizes(workspace, {space.total}, "workspace");
        Taps<T> taps{};
        taps.x = x.data<const T>("x", g.device);
        taps.frames = x.size(2), taps.first = -left, taps.step = stride, taps.dilation = dilation;
        taps.channels = x.size(1), taps.joints = static_cast<int>(x.size(3));
        taps.ins = static_cast<int>(weight.size(1)), taps.taps = static_cast<int>(weight.size(2));
        parameter_gradients(g, x, weight, taps, groups, weight_grad, bias_grad, space,
                            workspace.data<float>("workspace", g.device), use_tf32);
    });
}

}  // namespace asma::cuda
