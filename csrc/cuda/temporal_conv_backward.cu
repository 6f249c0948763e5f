// Gradients of a convolution along time. That of what it reads is a convolution again, for each residue of the frames
// by the stride one; those of weight and bias are sums over places of products (cuda/sums.hpp).
#include <algorithm>
#include <numeric>

#include "cuda/sums.hpp"
#include "cuda/temporal_conv.hpp"

namespace asma::cuda {
namespace {

constexpr const char* op = "temporal_conv_backward";

// What tap and channel n of a group read at a place of the result; of the last n, one: its sums are the bias's.
template <class T> struct Taps {
    const T* x;
    std::int64_t frames, first, step, dilation, channels;
    int joints, ins, taps;

    struct Row {
        const Taps& of;
        const T* row;

        __device__ float at(int group, int place, int n) const {
            if (n == of.taps * of.ins) return 1;
            const int tap = n / of.ins, c = n % of.ins;
            const std::int64_t t = place / of.joints * of.step + of.first + tap * of.dilation;
            if (t < 0 || t >= of.frames) return 0;
            const std::int64_t from = (t * of.joints + place % of.joints) * of.channels;
            return to_float(load(row + from + std::int64_t{group} * of.ins + c));
        }
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

std::int64_t numbers_of(const Array& weight) {
    return weight.size(1) * weight.size(2) + 1;
}

int shares_of_weights(const Array& g, const Array& weight, std::int64_t groups) {
    return shares_of_products(g.size(0), groups, weight.size(0) / groups, numbers_of(weight));
}

}  // namespace

std::int64_t temporal_conv_backward_workspace(const Array& g, const Array&, const Array& weight, std::int64_t,
                                              std::int64_t, std::int64_t, std::int64_t groups, const Map&,
                                              const Map& weight_grad, const Map& bias_grad) {
    if (!weight_grad && !bias_grad) return 0;
    return shares_of_weights(g, weight, groups) * weight.size(0) * numbers_of(weight);
}

void temporal_conv_backward(const Array& g, const Array& x, const Array& weight, std::int64_t stride, std::int64_t left,
                            std::int64_t dilation, std::int64_t groups, const Map& x_grad, const Map& weight_grad,
                            const Map& bias_grad, bool use_tf32, const Array& workspace) {
    with_float(g, "g", [&](auto zero) {
        using T = decltype(zero);
        check_convolution(x, g, weight, groups);
        check_places(std::max(g.count(), x.count()) / std::max<std::int64_t>(1, std::min(g.size(1), x.size(1))),
                     "maps have more places");
        if (x_grad) {
            check_convolution(*x_grad, g, weight, groups);
            check_sizes(*x_grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, "x_grad");
            x_gradient<T>(g, weight, stride, left, dilation, groups, *x_grad, use_tf32);
        }
        if (!weight_grad && !bias_grad) return;
        ProductSums<T> p{};
        p.g = g.data<const T>("g", g.device), p.sums = workspace.data<float>("workspace", g.device);
        p.rows = g.size(0), p.places = static_cast<int>(g.size(2) * g.size(3)), p.groups = static_cast<int>(groups);
        p.outs = static_cast<int>(weight.size(0) / groups), p.numbers = static_cast<int>(numbers_of(weight));
        p.shares = shares_of_weights(g, weight, groups);
        check_sizes(workspace, {p.shares * weight.size(0) * p.numbers}, "workspace");
        Taps<T> taps{};
        taps.x = x.data<const T>("x", g.device);
        taps.frames = x.size(2), taps.first = -left, taps.step = stride, taps.dilation = dilation;
        taps.channels = x.size(1), taps.joints = static_cast<int>(x.size(3)),
        taps.ins = static_cast<int>(weight.size(1));
        taps.taps = static_cast<int>(weight.size(2));
        if (weight.size(0) > 0) sum_all_products(op, p, taps, 0, use_tf32, g.stream);
        Merge<T> merged{};
        merged.from = p.sums, merged.shares = p.shares, merged.share = weight.size(0) * p.numbers;
        merged.a = p.numbers;
        if (weight_grad) {
            check_sizes(*weight_grad, {weight.size(0), weight.size(1), weight.size(2)}, "weight_grad");
            if (!weight_grad->dense({0, 1, 2})) throw std::invalid_argument("weight_grad must be dense");
            merged.to = weight_grad->data<T>("weight_grad", g.device);
            merged.b = 1, merged.c = taps.ins, merged.size_b = taps.ins, merged.size_c = taps.taps;
            merge(op, merged, weight_grad->count(), g.stream);
        }
        if (bias_grad) {
            check_sizes(*bias_grad, {weight.size(0)}, "bias_grad");
            merged.from += p.numbers - 1, merged.to = bias_grad->data<T>("bias_grad", g.device);
            merged.b = merged.c = 0, merged.size_b = merged.size_c = 1;
            merge(op, merged, bias_grad->count(), g.stream);
        }
    });
}

}  // namespace asma::cuda
