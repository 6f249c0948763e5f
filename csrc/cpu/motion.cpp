// Motion scores. They decide masks, so every instruction set must give the same bits: differences in the values' own
// type, everything after them in float64, one stated order of summation (asma_fast/ops/motion.py has it), and no
// contraction to FMA (CMake compiles this source with -ffp-contract=off).
//
// Speed comes from what may run side by side without touching that order: the six moments of one joint's three
// coordinates, and two frames.
#include "cpu/motion.hpp"

#include "cpu/simd.hpp"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace asma::cpu::ASMA_ISA {
namespace {

typedef double Double4 __attribute__((vector_size(4 * sizeof(double))));
typedef real Real4 __attribute__((vector_size(4 * sizeof(real))));

// The moments of the first three coordinates: G's diagonal, and its products ab, bc, ca. The fourth lane idles.
struct Moments {
    Double4 squares, products;
};

// GCC 12 makes four instructions of the conversion and five of the load; AVX has one for each.
#if defined(__AVX__)
inline void widen(const __m128& value, Double4& wide) {
    wide = _mm256_cvtps_pd(value);
}
#else
inline void widen(const Real4& value, Double4& wide) {
    wide = __builtin_convertvector(value, Double4);
}
#endif

template <bool dense> inline void take(const real* joint, std::int64_t stride, Real4& coordinates) {
#if defined(__AVX__)
    if (dense) {
        coordinates = _mm_maskload_ps(joint, _mm_setr_epi32(-1, -1, -1, 0));
        return;
    }
#endif
    coordinates = Real4{joint[0], joint[stride], joint[2 * stride], 0};
}

// Without a transform only the diagonal is asked for.
template <bool with_products> inline void add(Moments& sums, const Real4& difference) {
    Double4 d;
    widen(difference, d);
    sums.squares += d * d;
    if (with_products) {
        const Double4 turned{d[1], d[2], d[0], 0.0};
        sums.products += d * turned;
    }
}

// One moment: Σ over bodies, then steps, of d[a]·d[b], where `at(body, step, end)` points to the joint before (end 0)
// or after (end 1) the step.
template <class At>
inline double moment(std::int64_t bodies, std::int64_t steps, std::int64_t a, std::int64_t b, const At& at) {
    double total = 0;
    for (std::int64_t m = 0; m < bodies; ++m)
        for (std::int64_t i = 0; i < steps; ++i) {
            const real *from = at(m, i, 0), *to = at(m, i, 1);
            const real first = to[a] - from[a], second = to[b] - from[b];
            total += static_cast<double>(first) * static_cast<double>(second);
        }
    return total;
}

// Entry ab of W = SᵀS, for the transform of one clip.
inline double weight(const real* transform, std::int64_t dims, std::int64_t a, std::int64_t b) {
    double total = static_cast<double>(transform[a]) * static_cast<double>(transform[b]);
    for (std::int64_t e = 1; e < dims; ++e)
        total += static_cast<double>(transform[e * dims + a]) * static_cast<double>(transform[e * dims + b]);
    return total;
}

inline bool has_vector_part(const MotionParams<real>& p) {
    return p.view.dims == 3 || (p.view.dims == 0 && p.channels >= 3);
}

// tr(S G Sᵀ) / count of one work item. `sums` holds the first three coordinates' moments where has_vector_part().
template <class At> inline float score(const MotionParams<real>& p, std::int64_t clip, const Moments& sums,
                                       std::int64_t steps, const At& at) {
    const std::int64_t dims = p.view.dims, stride = p.x_channel;
    const real* s = p.view.transform + clip * p.view.transform_stride;
    double trace = 0;
    std::int64_t done = dims;
    if (has_vector_part(p)) {
        done = 3;
        for (int a = 0; a < 3; ++a) trace += dims ? weight(s, 3, a, a) * sums.squares[a] : sums.squares[a];
        if (dims) {
            trace += 2 * (weight(s, 3, 0, 1) * sums.products[0]);
            trace += 2 * (weight(s, 3, 0, 2) * sums.products[2]);
            trace += 2 * (weight(s, 3, 1, 2) * sums.products[1]);
        }
    } else if (dims == 2) {
        trace += weight(s, 2, 0, 0) * moment(p.bodies, steps, 0, 0, at);
        trace += weight(s, 2, 1, 1) * moment(p.bodies, steps, stride, stride, at);
        trace += 2 * (weight(s, 2, 0, 1) * moment(p.bodies, steps, 0, stride, at));
    }
    for (std::int64_t c = done; c < p.channels; ++c) trace += moment(p.bodies, steps, c * stride, c * stride, at);
    const std::int64_t count = p.channels * p.bodies * steps;
    return static_cast<float>((trace < 0 ? 0 : trace) / static_cast<double>(count > 0 ? count : 1));
}

// Moments of two successive steps: from the frame at `rows[0]` to `rows[1]`, and from there to `rows[2]`.
template <bool with_products, bool dense> inline void two_frames(const MotionParams<real>& p,
                                                                 const std::int32_t* joints, const real* const rows[3],
                                                                 Moments sums[2]) {
    Moments first{}, second{};
    for (std::int64_t m = 0; m < p.bodies; ++m)
        for (std::int64_t v = 0; v < p.joints; ++v) {
            const std::int64_t offset = m * p.x_body + (joints ? joints[v] : v) * p.x_joint;
            Real4 a, b, c;
            take<dense>(rows[0] + offset, p.x_channel, a);
            take<dense>(rows[1] + offset, p.x_channel, b);
            take<dense>(rows[2] + offset, p.x_channel, c);
            add<with_products>(first, b - a);
            add<with_products>(second, c - b);
        }
    sums[0] = first;
    sums[1] = second;
}

}  // namespace

void frame_motion(const MotionParams<real>& p, std::int64_t begin, std::int64_t end) {
    const ViewMaps<real>& view = p.view;
    for (std::int64_t item = begin; item < end;) {
        const std::int64_t n = item / p.frames;
        std::int64_t t = item % p.frames;
        const bool last = t == p.frames - 1;
        if (last && (t == 0 || !p.replicate)) {
            p.out[item++] = 0;
            continue;
        }
        t -= last;
        const bool two = !last && t + 2 < p.frames && item + 1 < end;
        const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
        const real* rows[3];
        for (int i = 0; i < 3; ++i) {
            const std::int64_t at = t + (i == 2 && !two ? 1 : i);
            rows[i] = p.x + n * p.x_clip + (frames ? frames[at] : at) * p.x_frame;
        }
        Moments sums[2]{};
        if (has_vector_part(p)) {
            const bool dense = p.x_channel == 1;
            if (view.dims)
                dense ? two_frames<true, true>(p, joints, rows, sums) : two_frames<true, false>(p, joints, rows, sums);
            else
                dense ? two_frames<false, true>(p, joints, rows, sums)
                      : two_frames<false, false>(p, joints, rows, sums);
        }
        for (int i = 0; i <= static_cast<int>(two); ++i)
            p.out[item++] = score(p, n, sums[i], p.joints, [&](std::int64_t m, std::int64_t v, int end_of_step) {
                return rows[i + end_of_step] + m * p.x_body + (joints ? joints[v] : v) * p.x_joint;
            });
    }
}

void joint_motion(const MotionParams<real>& p, std::int64_t begin, std::int64_t end) {
    const ViewMaps<real>& view = p.view;
    const std::int64_t steps = p.frames > 0 ? p.frames - 1 : 0;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / p.joints, v = item % p.joints;
        const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
        const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
        const real* joint = p.x + n * p.x_clip + (joints ? joints[v] : v) * p.x_joint;
        const auto at = [&](std::int64_t m, std::int64_t t, int end_of_step) {
            t += end_of_step;
            return joint + m * p.x_body + (frames ? frames[t] : t) * p.x_frame;
        };
        Moments sums{};
        if (has_vector_part(p) && steps > 0)
            for (std::int64_t m = 0; m < p.bodies; ++m) {
                Real4 before, after;
                take<false>(at(m, 0, 0), p.x_channel, before);
                for (std::int64_t t = 0; t < steps; ++t) {
                    take<false>(at(m, t, 1), p.x_channel, after);
                    add<true>(sums, after - before);
                    before = after;
                }
            }
        p.out[item] = score(p, n, sums, steps, at);
    }
}

}  // namespace asma::cpu::ASMA_ISA
