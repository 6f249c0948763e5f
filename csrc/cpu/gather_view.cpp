// Materialises a view of a clip, and scatters its gradient back. Bound by memory: one read, one write.
#include "cpu/gather_view.hpp"

#include "cpu/simd.hpp"
#include "cpu/transform_joint.hpp"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace asma::cpu::ASMA_ISA {
namespace {

typedef real Real4 __attribute__((vector_size(4 * sizeof(real))));
typedef real Real4Unaligned __attribute__((vector_size(4 * sizeof(real)), may_alias, aligned(sizeof(real))));

// The three coordinates of a joint; the fourth lane is nothing's.
template <bool dense> inline void take(const real* joint, std::int64_t stride, Real4& coordinates) {
#if defined(__AVX__)
    if (dense) {
        coordinates = _mm_maskload_ps(joint, _mm_setr_epi32(-1, -1, -1, 0));
        return;
    }
#endif
    coordinates = Real4{joint[0], joint[stride], joint[2 * stride], 0};
}

// One output frame of three channels. Every joint is stored as four numbers, of which the next one's overwrite the
// last; the frame's last joint as three, since the next frame may be another thread's.
template <bool dense, bool turned> inline void gather_triples(const GatherViewParams<real>& p, const real* frame,
                                                              const std::int32_t* joints, const real* transform,
                                                              real* out) {
    Real4 columns[3]{};
    if (turned)
        for (int c = 0; c < 3; ++c) columns[c] = Real4{transform[c], transform[3 + c], transform[6 + c], 0};
    const auto read = [&](std::int64_t v, Real4& value) {
        const real* joint = frame + (joints ? joints[v] : v) * p.x_joint;
        if (turned)
            value = joint[0] * columns[0] + joint[p.x_channel] * columns[1] + joint[2 * p.x_channel] * columns[2];
        else
            take<dense>(joint, p.x_channel, value);
    };
    Real4 value;
    for (std::int64_t v = 0; v + 1 < p.joints; ++v) {
        read(v, value);
        *reinterpret_cast<Real4Unaligned*>(out + 3 * v) = value;
    }
    if (p.joints == 0) return;
    read(p.joints - 1, value);
    for (int c = 0; c < 3; ++c) out[3 * (p.joints - 1) + c] = value[c];
}

// One output frame of any number of channels.
inline void gather_frame(const GatherViewParams<real>& p, const real* frame, const std::int32_t* joints,
                         const real* transform, real* out) {
    for (std::int64_t v = 0; v < p.joints; ++v, out += p.channels)
        transform_joint(frame + (joints ? joints[v] : v) * p.x_joint, p.x_channel, out, transform, p.view.dims,
                        p.channels);
}

// Copies of at least a vector's length, by vectors of which the last two overlap.
inline void copy(const real* from, real* to, std::int64_t count) {
    if (count < lanes) {
        for (std::int64_t i = 0; i < count; ++i) to[i] = from[i];
        return;
    }
    for (std::int64_t i = 0; i + lanes < count; i += lanes) store(to + i, load(from + i));
    store(to + count - lanes, load(from + count - lanes));
}

#if defined(__AVX2__)
#define ASMA_HAS_PERMUTATION 1

inline void permute(const real* from, const std::int32_t* order, real* to) {
#if defined(__AVX512F__)
    _mm512_storeu_ps(to, _mm512_maskz_permutexvar_ps(0xFFFF, _mm512_load_si512(order), _mm512_loadu_ps(from)));
#else
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(_mm256_loadu_ps(from),
                                                  _mm256_load_si256(reinterpret_cast<const __m256i*>(order))));
#endif
}

// How every frame of a clip with dense joints of three channels is gathered: a few permutations of one vector each,
// stored in order, each with a tail that the next one overwrites. A mask leaves about as many as it reads vectors.
struct Permutations {
    static constexpr int most = 32;

    alignas(ASMA_VECTOR_BYTES) std::int32_t order[most][lanes];
    std::int32_t from[most], to[most];
    int count;

    // False where the frame is too small or its joints too scattered to be worth it.
    bool plan(const std::int32_t* joints, std::int64_t size) {
        std::int32_t end = 0;  // what may be read of a frame
        for (std::int64_t v = 0; v < size; ++v) end = 3 * joints[v] + 3 > end ? 3 * joints[v] + 3 : end;
        count = 0;
        if (3 * size < lanes || end < lanes) return false;
        for (std::int64_t v = 0; v < size; ++count) {
            if (count == most || 2 * count > size) return false;
            to[count] = static_cast<std::int32_t>(3 * v);
            std::int32_t low = joints[v], high = low;
            std::int64_t next = v + 1;
            for (; next < size && next < v + lanes / 3; ++next) {
                const std::int32_t joint = joints[next];
                if (joint - low >= lanes / 3 || high - joint >= lanes / 3) break;
                low = joint < low ? joint : low, high = joint > high ? joint : high;
            }
            const std::int32_t first = 3 * low < end - lanes ? 3 * low : end - lanes;
            for (std::int64_t lane = 0; v < next; ++v, lane += 3)
                for (std::int32_t c = 0; c < 3; ++c) order[count][lane + c] = 3 * joints[v] + c - first;
            from[count] = first;
        }
        return true;
    }

    // Writes up to a vector beyond the frame.
    void gather(const real* frame, real* out) const {
        for (int i = 0; i < count; ++i) permute(frame + from[i], order[i], out + to[i]);
    }
};
#endif

// How many output frames ahead are asked for while one is written: the frames of a view do not follow each other in x.
constexpr std::int64_t frames_ahead = 4;

inline std::int64_t ahead(std::int64_t t, std::int64_t last) {
    return t + frames_ahead < last ? t + frames_ahead : last - 1;
}

inline std::int64_t source(const std::int32_t* frames, std::int64_t t) {
    return frames ? frames[t] : t;
}

// No address is wrong to ask for, so `to` may lie beyond the output.
inline void prefetch(const real* from, real* to, std::int64_t count) {
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(real));
    for (std::int64_t b = 0; b < bytes; b += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(from) + b, 0);
        __builtin_prefetch(reinterpret_cast<char*>(to) + b, 1);
    }
}

}  // namespace

void gather_view(const GatherViewParams<real>& p, std::int64_t begin, std::int64_t end) {
    const ViewMaps<real>& view = p.view;
    // A frame of x that lies as the output does is copied at once.
    const bool whole_frames = view.dims == 0 && !view.joints && p.x_channel == 1 && p.x_joint == p.channels;
    const bool triples = p.channels == 3 && view.dims != 2;
    const std::int64_t size = p.joints * p.channels;
#if defined(ASMA_HAS_PERMUTATION)
    const bool dense_triples = p.channels == 3 && view.joints && !view.dims && p.x_channel == 1 && p.x_joint == 3;
    Permutations permutations;
    bool planned = false;
    std::int64_t planned_for = -1;
#endif
    for (std::int64_t item = begin; item < end;) {
        const std::int64_t row = item / p.frames, m = row % p.bodies, n = row / p.bodies, first = item % p.frames;
        const std::int64_t last = first + (end - item) < p.frames ? first + (end - item) : p.frames;
        const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
        const real* transform = view.transform + n * view.transform_stride;
        const real* body = p.x + n * p.x_clip + m * p.x_body;
        real* out = p.out + item * size;
        item += last - first;
        std::int64_t t = first;
#if defined(ASMA_HAS_PERMUTATION)
        if (dense_triples && planned_for != n) {
            planned = (planned_for < 0 || view.joints_stride) ? permutations.plan(joints, p.joints) : planned;
            planned_for = n;
        }
        // The last frame of all is followed by memory that is not ours to write.
        for (; planned && t < last - (item == end); ++t, out += size) {
            prefetch(body + source(frames, ahead(t, last)) * p.x_frame, out + frames_ahead * size, size);
            permutations.gather(body + source(frames, t) * p.x_frame, out);
        }
#endif
        for (; t < last; ++t, out += size) {
            const real* frame = body + source(frames, t) * p.x_frame;
            if (whole_frames) {
                prefetch(body + source(frames, ahead(t, last)) * p.x_frame, out + frames_ahead * size, size);
                copy(frame, out, size);
            } else if (!triples)
                gather_frame(p, frame, joints, transform, out);
            else if (view.dims)
                gather_triples<false, true>(p, frame, joints, transform, out);
            else if (p.x_channel == 1)
                gather_triples<true, false>(p, frame, joints, transform, out);
            else
                gather_triples<false, false>(p, frame, joints, transform, out);
        }
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
