// Materialises a view of a clip, and scatters its gradient back. Bound by memory: one read, one write.
#include "cpu/gather_view.hpp"

#include "cpu/simd.hpp"
#include "cpu/transform_joint.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

// One output frame, joint by joint.
template <int fixed_dims, int fixed_channels> inline void gather_frame(const GatherViewParams<real>& p,
                                                                       const real* frame, const std::int32_t* joints,
                                                                       const real* transform, real* out) {
    const std::int64_t channels = fixed_channels < 0 ? p.channels : fixed_channels;
    for (std::int64_t v = 0; v < p.joints; ++v, out += channels)
        transform_joint<fixed_dims, fixed_channels>(frame + (joints ? joints[v] : v) * p.x_joint, p.x_channel, out,
                                                    transform, p.view.dims, p.channels);
}

}  // namespace

void gather_view(const GatherViewParams<real>& p, std::int64_t begin, std::int64_t end) {
    const ViewMaps<real>& view = p.view;
    // A frame of x that lies as the output does is copied at once.
    const bool whole_frames = view.dims == 0 && p.x_channel == 1 && p.x_joint == p.channels;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t t = item % p.frames, row = item / p.frames, m = row % p.bodies, n = row / p.bodies;
        const std::int64_t frame = view.frames ? view.frames[n * view.frames_stride + t] : t;
        const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
        const real* transform = view.transform + n * view.transform_stride;
        const real* source = p.x + n * p.x_clip + m * p.x_body + frame * p.x_frame;
        real* out = p.out + item * p.joints * p.channels;
        if (whole_frames && !joints)
            __builtin_memcpy(out, source, static_cast<std::size_t>(p.joints * p.channels) * sizeof(real));
        else if (p.channels == 3 && view.dims == 3)
            gather_frame<3, 3>(p, source, joints, transform, out);
        else if (p.channels == 3 && view.dims == 0)
            gather_frame<0, 3>(p, source, joints, transform, out);
        else
            gather_frame<-1, -1>(p, source, joints, transform, out);
    }
}

void gather_view_backward(const GatherViewBackwardParams<real>& p, std::int64_t begin, std::int64_t end) {
    const ViewMaps<real>& view = p.view;
    for (std::int64_t n = begin; n < end; ++n) {
        const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
        const real* transform = view.transform + n * view.transform_stride;
        for (std::int64_t m = 0; m < p.bodies; ++m) {
            real* x_body = p.x_grad + (n * p.bodies + m) * p.x_frames * p.x_joints * p.channels;
            for (std::int64_t t = 0; t < p.frames; ++t) {
                real* x_frame = x_body + (frames ? frames[t] : t) * p.x_joints * p.channels;
                const real* g_frame = p.g + n * p.g_clip + m * p.g_body + t * p.g_frame;
                for (std::int64_t v = 0; v < p.joints; ++v)
                    add_transposed_joint(g_frame + v * p.g_joint, p.g_channel,
                                         x_frame + (joints ? joints[v] : v) * p.channels, transform, view.dims,
                                         p.channels);
            }
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
