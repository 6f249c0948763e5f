// Materialises a view of a clip, and gathers its gradient back: one read and one write. A warp has a frame of a body,
// each of its threads a joint at a time. The gradient of a recorded joint is summed by the thread that writes it, over
// the positions that read it in their order: no atomics, the same bits every time.
#include "cuda/gather_view.hpp"

#include <algorithm>

namespace asma::cuda {
namespace {

// At most 64 registers: for more blocks at once the compiler would spill some.
constexpr int threads = 256, blocks_at_once = 4, warps = threads / warp_size;

// Row (n, m, t) of a warp's turn.
struct Row {
    std::int64_t n, m, t;
};

__device__ inline Row row_of(unsigned row, const ViewSizes& sizes, std::int64_t frames) {
    const auto each = static_cast<unsigned>(frames), bodies = static_cast<unsigned>(sizes.bodies);
    return {row / each / bodies, row / each % bodies, row % each};
}

template <class T, int dims> __global__ void __launch_bounds__(threads, blocks_at_once)
    gather(Clip<const T> x, ViewMaps<float> view, ViewSizes sizes, T* out) {
    const int lane = threadIdx.x % warp_size;
    const auto rows = static_cast<unsigned>(sizes.clips * sizes.bodies * sizes.frames);
    for (unsigned row = blockIdx.x * warps + threadIdx.x / warp_size; row < rows; row += gridDim.x * warps) {
        const Row at = row_of(row, sizes, sizes.frames);
        const std::int32_t* frames = view.frames ? view.frames + at.n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + at.n * view.joints_stride : nullptr;
        const std::int64_t t = mapped<true>(frames, at.t, sizes.x_frames, "view.frames");
        float s[dims + 1][dims + 1];
        for (int e = 0; e < dims; ++e)
            for (int c = 0; c < dims; ++c)
                s[e][c] = load_uniform(view.transform + at.n * view.transform_stride + e * dims + c);
        for (std::int64_t v = lane; v < sizes.joints; v += warp_size) {
            const std::int64_t joint = mapped(joints, v, sizes.x_joints, "view.joints");
            const T* from = x.data + at.n * x.clip + at.m * x.body + t * x.frame + joint * x.joint;
            T* to = out + (std::int64_t{row} * sizes.joints + v) * sizes.channels;
            float moved[dims + 1];
            for (int c = 0; c < dims; ++c) moved[c] = to_float(load(from + c * x.channel));
            for (int e = 0; e < dims; ++e) {
                float sum = 0;
                for (int c = 0; c < dims; ++c) sum += s[e][c] * moved[c];
                store(to + e, from_float<T>(sum));
            }
            for (std::int64_t c = dims; c < sizes.channels; ++c) store(to + c, load(from + c * x.channel));
        }
    }
}

template <class G, class T, int dims> __global__ void __launch_bounds__(threads, blocks_at_once)
    gather_back(Clip<const G> g, ViewMaps<float> view, ViewSizes sizes, T* x_grad) {
    const int lane = threadIdx.x % warp_size;
    const auto rows = static_cast<unsigned>(sizes.clips * sizes.bodies * sizes.x_frames);
    for (unsigned row = blockIdx.x * warps + threadIdx.x / warp_size; row < rows; row += gridDim.x * warps) {
        const Row at = row_of(row, sizes, sizes.x_frames);
        const std::int32_t* frames = view.frames ? view.frames + at.n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + at.n * view.joints_stride : nullptr;
        const auto channels = static_cast<unsigned>(sizes.channels);
        const auto numbers = static_cast<unsigned>(sizes.x_joints) * channels;
        for (unsigned place = lane; place < numbers; place += warp_size) {
            const int joint = static_cast<int>(place / channels), c = static_cast<int>(place % channels);
            float column[dims + 1], sum = 0;
            for (int e = 0; e < dims; ++e)
                column[e] = c < dims ? load(view.transform + at.n * view.transform_stride + e * dims + c) : 0;
            for (std::int64_t t = frames ? 0 : at.t; t < (frames ? sizes.frames : at.t + 1); ++t) {
                if (mapped(frames, t, sizes.x_frames, "view.frames") != at.t) continue;
                for (std::int64_t v = joints ? 0 : joint; v < (joints ? sizes.joints : joint + 1); ++v) {
                    if (mapped(joints, v, sizes.x_joints, "view.joints") != joint) continue;
                    const G* from = g.data + at.n * g.clip + at.m * g.body + t * g.frame + v * g.joint;
                    if (c >= dims)
                        sum += to_float(load(from + c * g.channel));
                    else
                        for (int e = 0; e < dims; ++e) sum += column[e] * to_float(load(from + e * g.channel));
                }
            }
            store(x_grad + std::int64_t{row} * numbers + place, from_float<T>(sum));
        }
    }
}

ViewSizes sizes_of(const Array& viewed, const Array& clip, const Map& frames, const Map& joints, const char* what) {
    if (viewed.rank != 5 || clip.rank != 5) throw std::invalid_argument("clips must have shape (N, C, T, V, M)");
    const ViewSizes sizes{clip.size(0),   clip.size(4), viewed.size(2), viewed.size(3),
                          viewed.size(1), clip.size(2), clip.size(3)};
    check_sizes(viewed,
                {clip.size(0), clip.size(1), frames ? frames->size(1) : clip.size(2),
                 joints ? joints->size(1) : clip.size(3), clip.size(4)},
                what);
    check_places(sizes.clips * sizes.bodies * std::max(sizes.frames, sizes.x_frames), "clips have more frames");
    check_places(sizes.x_joints * sizes.channels, "clips have more numbers a frame");
    return sizes;
}

void check_channels_last(const Array& array, const char* what) {
    if (!array.dense({0, 4, 2, 3, 1}))
        throw std::invalid_argument(std::string(what) + " must be dense as (N, M, T, V, C)");
}

}  // namespace

template <class G, class T> void gather_view_back(const char* op, Clip<const G> g, ViewMaps<float> view,
                                                  ViewSizes sizes, T* x_grad, std::uintptr_t stream) {
    with_dims(view.dims, [&](auto dims) {
        launch({op, blocks_for(sizes.clips * sizes.bodies * sizes.x_frames, warps), threads, 0, stream},
               gather_back<G, T, dims.value>, g, view, sizes, x_grad);
    });
}

template void gather_view_back(const char*, Clip<const float>, ViewMaps<float>, ViewSizes, float*, std::uintptr_t);
template void gather_view_back(const char*, Clip<const float>, ViewMaps<float>, ViewSizes, half*, std::uintptr_t);
template void gather_view_back(const char*, Clip<const float>, ViewMaps<float>, ViewSizes, bfloat16*, std::uintptr_t);

void gather_view(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out) {
    with_float(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const ViewSizes sizes = sizes_of(out, x, frames, joints, "out");
        check_channels_last(out, "out");
        if (out.count() == 0) return;
        const ViewMaps<float> view = view_maps(frames, joints, transform, x.device);
        with_dims(view.dims, [&](auto dims) {
            launch({"gather_view", blocks_for(sizes.clips * sizes.bodies * sizes.frames, warps), threads, 0, x.stream},
                   gather<T, dims.value>, clip_of<const T>(x, "x", x.device), view, sizes,
                   out.data<T>("out", x.device));
        });
    });
}

void gather_view_backward(const Array& g, const Map& frames, const Map& joints, const Map& transform,
                          const Array& x_grad) {
    with_float(g, "g", [&](auto zero) {
        using T = decltype(zero);
        const ViewSizes sizes = sizes_of(g, x_grad, frames, joints, "g");
        check_channels_last(x_grad, "x_grad");
        if (x_grad.count() == 0) return;
        gather_view_back("gather_view_backward", clip_of<const T>(g, "g", g.device),
                         view_maps(frames, joints, transform, g.device), sizes, x_grad.data<T>("x_grad", g.device),
                         g.stream);
    });
}

}  // namespace asma::cuda
