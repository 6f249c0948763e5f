// Motion scores. They decide masks, so the sums are those of asma_fast/ops/motion.py, number by number: differences in
// float32, everything after them in float64, each step rounded (csrc/cuda/device.hpp's multiply and add never fuse).
#include <algorithm>

#include "cuda/arrays.hpp"

namespace asma::cuda {
namespace {

constexpr int threads = 128, lanes = 8;  // partial sums of a frame: part of the contract
constexpr int pairs_of_warp = warp_size / lanes, warps = threads / warp_size;

template <class T> struct Motion {
    Clip<const T> x;
    ViewMaps<float> view;
    std::int64_t clips, bodies, frames, joints, channels;  // of the view
    std::int64_t x_frames, x_joints;
    float* out;
};

// U: the upper triangle of W = SᵀS, doubled off its diagonal, row by row.
template <int dims>
__device__ inline void weights_of(const ViewMaps<float>& view, std::int64_t n, double (&u)[dims + 1][dims + 1]) {
    const float* s = view.transform + n * view.transform_stride;
    for (int a = 0; a < dims; ++a)
        for (int b = a; b < dims; ++b) {
            double total = 0;
            for (int e = 0; e < dims; ++e) {
                const double product = multiply(load(s + e * dims + a), load(s + e * dims + b));
                total = e == 0 ? product : add(total, product);
            }
            u[a][b] = a == b ? total : multiply(2, total);
        }
}

template <class T> __device__ inline double difference(const T* before, const T* after) {
    return subtract(to_float(load(after)), to_float(load(before)));
}

// The squared change of a joint, its channels `stride` apart.
template <int dims, class T> __device__ inline double change(const T* before, const T* after, std::int64_t stride,
                                                             std::int64_t channels,
                                                             const double (&u)[dims + 1][dims + 1]) {
    double d[dims + 1], q = 0;
    for (int c = 0; c < dims; ++c) d[c] = difference(before + c * stride, after + c * stride);
    for (int a = 0; a < dims; ++a) {
        double row = multiply(u[a][a], d[a]);
        for (int b = a + 1; b < dims; ++b) row = add(row, multiply(u[a][b], d[b]));
        q = add(q, multiply(d[a], row));
    }
    for (std::int64_t c = dims; c < channels; ++c) {
        const double one = difference(before + c * stride, after + c * stride);
        q = add(q, multiply(one, one));
    }
    return q;
}

// A mean, rounded as a division rounds: with the reciprocal rounded, one correction is enough (Markstein, IBM Journal
// of Research and Development, 1990). A division itself is a call, and what lives across it would be spilled.
struct Mean {
    double count, reciprocal;
};

Mean mean_of(std::int64_t count) {
    const auto divisor = static_cast<double>(count > 1 ? count : 1);
    return {divisor, 1 / divisor};
}

__device__ inline float rounded(double total, const Mean& mean) {
    const double value = total < 0 ? 0 : total, quotient = multiply(value, mean.reciprocal);
    if (!(quotient <= 1.7976931348623157e308)) return static_cast<float>(quotient);
    return static_cast<float>(fused(fused(-quotient, mean.count, value), mean.reciprocal, quotient));
}

// Eight threads have a pair of successive frames, one of its eight sums each.
template <class T, int dims> __global__ void __launch_bounds__(threads)
    frames_of(Motion<T> p, bool replicate, Mean mean) {
    const int lane = threadIdx.x % lanes;
    const auto steps = static_cast<unsigned>(p.frames - 1), pairs = static_cast<unsigned>(p.clips) * steps;
    const auto channels = static_cast<unsigned>(p.channels), numbers = static_cast<unsigned>(p.joints) * channels;
    const unsigned first = (blockIdx.x * warps + threadIdx.x / warp_size) * pairs_of_warp;
    // The same for a warp, all of whose threads merge.
    for (unsigned base = first; base < pairs; base += gridDim.x * warps * pairs_of_warp) {
        const unsigned pair = base + threadIdx.x % warp_size / lanes;
        const bool there = pair < pairs;
        const std::int64_t n = there ? pair / steps : 0, t = there ? pair % steps : 0;
        double sum = 0;
        if (there) {
            const std::int32_t* frames = p.view.frames ? p.view.frames + n * p.view.frames_stride : nullptr;
            const std::int32_t* joints = p.view.joints ? p.view.joints + n * p.view.joints_stride : nullptr;
            const std::int64_t before = mapped(frames, t, p.x_frames, "view.frames") * p.x.frame;
            const std::int64_t after = mapped(frames, t + 1, p.x_frames, "view.frames") * p.x.frame;
            double u[dims + 1][dims + 1]{};
            weights_of<dims>(p.view, n, u);
            for (std::int64_t m = 0; m < p.bodies; ++m) {
                const T* body = p.x.data + n * p.x.clip + m * p.x.body;
                if constexpr (dims > 0) {
                    for (std::int64_t v = lane; v < p.joints; v += lanes) {
                        const T* joint = body + mapped(joints, v, p.x_joints, "view.joints") * p.x.joint;
                        sum = add(sum, change<dims>(joint + before, joint + after, p.x.channel, p.channels, u));
                    }
                } else {
                    for (unsigned e = lane; e < numbers; e += lanes) {
                        const std::int64_t v = e / channels, c = e % channels;
                        const T* number =
                            body + mapped(joints, v, p.x_joints, "view.joints") * p.x.joint + c * p.x.channel;
                        const double d = difference(number + before, number + after);
                        sum = add(sum, multiply(d, d));
                    }
                }
            }
        }
        for (int mask = lanes / 2; mask > 0; mask /= 2) sum = add(sum, shuffle_xor(sum, mask));
        if (!there || lane > 0) continue;
        const float score = rounded(sum, mean);
        store(p.out + n * p.frames + t, score);
        if (t == steps - 1) store(p.out + n * p.frames + steps, replicate ? score : 0.0f);
    }
}

// Clips of one frame, which does not move.
template <class T> __global__ void __launch_bounds__(threads) still(Motion<T> p) {
    for (std::int64_t n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.clips;
         n += std::int64_t{gridDim.x} * blockDim.x)
        store(p.out + n, 0.0f);
}

// A block has some joints of a clip, a thread one of their sums: of a number, or, under a transform, of a joint.
template <class T, int dims> __global__ void __launch_bounds__(threads)
    joints_of(Motion<T> p, unsigned together, unsigned pieces, Mean mean) {
    auto* sums = reinterpret_cast<double*>(shared_memory());
    const std::int64_t n = blockIdx.x / pieces, from = std::int64_t{blockIdx.x % pieces} * together;
    const std::int64_t steps = p.frames > 0 ? p.frames - 1 : 0;
    const unsigned each = dims > 0 ? 1 : static_cast<unsigned>(p.channels);
    const unsigned count = p.joints - from < together ? static_cast<unsigned>(p.joints - from) : together;
    const std::int32_t* frames = p.view.frames ? p.view.frames + n * p.view.frames_stride : nullptr;
    const std::int32_t* joints = p.view.joints ? p.view.joints + n * p.view.joints_stride : nullptr;
    double u[dims + 1][dims + 1]{};
    weights_of<dims>(p.view, n, u);
    for (unsigned place = threadIdx.x; place < count * each; place += threads) {
        const std::int64_t v = from + place / each;
        const T* joint = p.x.data + n * p.x.clip + mapped(joints, v, p.x_joints, "view.joints") * p.x.joint +
                         place % each * p.x.channel;
        double sum = 0;
        for (std::int64_t m = 0; m < p.bodies; ++m, joint += p.x.body) {
            const T* before = joint + (steps ? mapped(frames, 0, p.x_frames, "view.frames") : 0) * p.x.frame;
            for (std::int64_t t = 1; t <= steps; ++t) {
                const T* after = joint + mapped(frames, t, p.x_frames, "view.frames") * p.x.frame;
                if constexpr (dims > 0) {
                    sum = add(sum, change<dims>(before, after, p.x.channel, p.channels, u));
                } else {
                    const double d = difference(before, after);
                    sum = add(sum, multiply(d, d));
                }
                before = after;
            }
        }
        sums[place] = sum;
    }
    block_barrier();
    float* out = p.out + n * p.joints + from;
    for (unsigned v = threadIdx.x; v < count; v += threads) {
        double total = 0;
        for (unsigned c = 0; c < each; ++c) total = add(total, sums[v * each + c]);
        store(out + v, rounded(total, mean));
    }
}

template <class T> Motion<T> motion_of(const Array& x, const Map& frames, const Map& joints, const Map& transform,
                                       const Array& out, bool of_frames) {
    Motion<T> p{};
    p.x = clip_of<const T>(x, "x", x.device);
    p.view = view_maps(frames, joints, transform, x.device);
    p.clips = x.size(0), p.bodies = x.size(4), p.channels = x.size(1);
    p.x_frames = x.size(2), p.x_joints = x.size(3);
    p.frames = frames ? frames->size(1) : x.size(2);
    p.joints = joints ? joints->size(1) : x.size(3);
    check_sizes(out, {p.clips, of_frames ? p.frames : p.joints}, "out");
    check_places(p.clips * p.frames, "x has more frames");
    check_places(p.joints * p.channels, "x has more numbers a frame");
    if (!out.dense({0, 1})) throw std::invalid_argument("out must be dense");
    p.out = out.data<float>("out", x.device);
    return p;
}

}  // namespace

void frame_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                  const Array& out) {
    with_float(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const Motion<T> p = motion_of<T>(x, frames, joints, transform, out, true);
        if (p.frames == 1)
            launch({"frame_motion", blocks_for(p.clips, threads), threads, 0, x.stream}, still<T>, p);
        else if (p.frames > 1)
            with_dims(p.view.dims, [&](auto dims) {
                launch(
                    {"frame_motion", blocks_for(p.clips * (p.frames - 1), warps * pairs_of_warp), threads, 0, x.stream},
                    frames_of<T, dims.value>, p, replicate, mean_of(p.channels * p.bodies * p.joints));
            });
    });
}

void joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out) {
    with_float(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const Motion<T> p = motion_of<T>(x, frames, joints, transform, out, false);
        const std::int64_t each = p.view.dims > 0 ? 1 : p.channels;
        if (p.joints == 0) return;
        const std::int64_t together = each > 0 && each < threads ? threads / each : 1;
        const std::int64_t pieces = (p.joints + together - 1) / together;
        const std::size_t shared = static_cast<std::size_t>(together * each) * sizeof(double);
        with_dims(p.view.dims, [&](auto dims) {
            launch({"joint_motion", p.clips * pieces, threads, shared, x.stream}, joints_of<T, dims.value>, p,
                   static_cast<unsigned>(together), static_cast<unsigned>(pieces),
                   mean_of(p.channels * p.bodies * std::max<std::int64_t>(p.frames - 1, 0)));
        });
    });
}

// The clip is read twice: the sums of frames and of joints go over it in different orders.
void frame_and_joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                            const Array& frame_out, const Array& joint_out) {
    frame_motion(x, frames, joints, transform, replicate, frame_out);
    joint_motion(x, frames, joints, transform, joint_out);
}

}  // namespace asma::cuda
