// Motion scores. They decide masks, so every instruction set must give the same bits: differences in the values' own
// type, everything after them in float64, one stated order of summation (asma_fast/ops/motion.py has it), and no
// contraction to FMA (CMake compiles this source with -ffp-contract=off).
//
// Without a transform the numbers of a frame go into the sums as they lie, joint by joint, and only frames that do not
// lie so are laid out. With one, each frame of the view is laid out once, channel by channel, so that successive joints
// are successive lanes; the squared change of a joint from frame to frame then goes into the frame's sums, the joint's,
// or both.
#include "cpu/motion.hpp"

#include "cpu/simd.hpp"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace asma::cpu::ASMA_ISA {
namespace {

constexpr int wide_lanes = ASMA_VECTOR_BYTES / 8, parts = motion_lanes / wide_lanes;

typedef double Wide __attribute__((vector_size(ASMA_VECTOR_BYTES), may_alias, aligned(8)));
typedef std::int64_t WideBits __attribute__((vector_size(ASMA_VECTOR_BYTES)));
typedef real Narrow __attribute__((vector_size(wide_lanes * sizeof(real)), may_alias, aligned(sizeof(real))));
typedef real Eight __attribute__((vector_size(motion_lanes * sizeof(real)), may_alias));
typedef real Real4 __attribute__((vector_size(4 * sizeof(real))));
typedef real Real4Unaligned __attribute__((vector_size(4 * sizeof(real)), may_alias, aligned(sizeof(real))));

// GCC 12 makes several instructions of the conversion; AVX has one for each width (and GCC 12 a false warning for the
// unmasked one of 512 bits).
inline void widen(const Narrow& value, Wide& wide) {
#if defined(__AVX512F__)
    wide = _mm512_maskz_cvtps_pd(0xFF, value);
#elif defined(__AVX__)
    wide = _mm256_cvtps_pd(value);
#else
    wide = __builtin_convertvector(value, Wide);
#endif
}

// ---- a frame's joints, channel by channel ----

// The changes of eight joints of three successive coordinates, coordinate by coordinate; of the first `count` where it
// is below eight, and 0 for the others.
inline void differences(const real* before, const real* after, std::int64_t count, Eight& x, Eight& y, Eight& z) {
#if defined(__AVX512F__)
    const std::uint32_t there = count < 8 ? (1u << 3 * count) - 1 : 0xFFFFFF;
    const auto first = static_cast<__mmask16>(there), second = static_cast<__mmask16>(there >> 8);
    const auto a = (Vec)_mm512_maskz_loadu_ps(first, after) - (Vec)_mm512_maskz_loadu_ps(first, before);
    const auto b = (Vec)_mm512_maskz_loadu_ps(second, after + 8) - (Vec)_mm512_maskz_loadu_ps(second, before + 8);
    x = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 26, 29);
    y = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 24, 27, 30);
    z = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 25, 28, 31);
#elif defined(__AVX2__)
    __m256 d[3];
    for (int i = 0; i < 3; ++i) {
        if (count >= 8) {
            d[i] = _mm256_sub_ps(_mm256_loadu_ps(after + 8 * i), _mm256_loadu_ps(before + 8 * i));
        } else {
            const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(3 * count) - 8 * i),
                                                     _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            d[i] = _mm256_sub_ps(_mm256_maskload_ps(after + 8 * i, there), _mm256_maskload_ps(before + 8 * i, there));
        }
    }
    const __m256 xs = _mm256_blend_ps(_mm256_blend_ps(d[0], d[1], 0b10010010), d[2], 0b00100100);
    const __m256 ys = _mm256_blend_ps(_mm256_blend_ps(d[0], d[1], 0b00100100), d[2], 0b01001001);
    const __m256 zs = _mm256_blend_ps(_mm256_blend_ps(d[0], d[1], 0b01001001), d[2], 0b10010010);
    x = (Eight)_mm256_permutevar8x32_ps(xs, _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
    y = (Eight)_mm256_permutevar8x32_ps(ys, _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6));
    z = (Eight)_mm256_permutevar8x32_ps(zs, _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
#else
    x = y = z = Eight{};
    for (int v = 0; v < (count < 8 ? count : 8); ++v) {
        x[v] = after[3 * v] - before[3 * v];
        y[v] = after[3 * v + 1] - before[3 * v + 1];
        z[v] = after[3 * v + 2] - before[3 * v + 2];
    }
#endif
}

inline void take_three(const real* joint, Real4& coordinates) {
#if defined(__AVX__)
    coordinates = _mm_maskload_ps(joint, _mm_setr_epi32(-1, -1, -1, 0));
#else
    coordinates = Real4{joint[0], joint[1], joint[2], 0};
#endif
}

// Four joints of three successive coordinates, each wherever it is.
inline void transpose(const real* const joints[4], real* out, std::int64_t plane) {
    Real4 a, b, c, d;
    take_three(joints[0], a), take_three(joints[1], b), take_three(joints[2], c), take_three(joints[3], d);
    const Real4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Real4 ab_last = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                cd_last = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *reinterpret_cast<Real4Unaligned*>(out) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *reinterpret_cast<Real4Unaligned*>(out + plane) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *reinterpret_cast<Real4Unaligned*>(out + 2 * plane) = __builtin_shufflevector(ab_last, cd_last, 0, 1, 4, 5);
}

template <int stride> inline void copy_strided(const real* __restrict from, real* __restrict out, std::int64_t count) {
    for (std::int64_t v = 0; v < count; ++v) out[v] = from[v * stride];
}

inline bool dense_triples(const MotionParams<real>& p) {
    return !p.view.joints && p.channels == 3 && p.x_channel == 1 && p.x_joint == 3;
}

// Joints [0, count) of one body in one frame, or those that `joints` names.
inline void lay_out(const MotionParams<real>& p, const real* frame, const std::int32_t* joints, std::int64_t count,
                    std::int64_t plane, real* out) {
    const bool triples = p.channels == 3 && p.x_channel == 1;
    std::int64_t v = 0;
    if (triples) {
        for (; v + 4 <= count; v += 4) {
            const real* four[4];
            for (int i = 0; i < 4; ++i) four[i] = frame + (joints ? joints[v + i] : v + i) * p.x_joint;
            transpose(four, out + v, plane);
        }
    } else if (!joints && (p.x_joint == 1 || p.x_joint == 2)) {
        for (std::int64_t c = 0; c < p.channels; ++c) {
            const real* from = frame + c * p.x_channel;
            p.x_joint == 1 ? copy_strided<1>(from, out + c * plane, count)
                           : copy_strided<2>(from, out + c * plane, count);
        }
        return;
    }
    for (; v < count; ++v) {
        const real* joint = frame + (joints ? joints[v] : v) * p.x_joint;
        for (std::int64_t c = 0; c < p.channels; ++c) out[c * plane + v] = joint[c * p.x_channel];
    }
}

// ---- a frame's numbers, joint by joint ----

// Joints [0, count) of one body in one frame, or those that `joints` names; all channels of each.
inline void lay_out_flat(const MotionParams<real>& p, const real* frame, const std::int32_t* joints, std::int64_t count,
                         real* out) {
    std::int64_t v = 0;
    if (p.channels == 3 && p.x_channel == 1) {
        // Each is stored as four numbers, of which the next one's overwrite the last.
        for (; v + 1 < count; ++v) {
            Real4 joint;
            take_three(frame + (joints ? joints[v] : v) * p.x_joint, joint);
            *reinterpret_cast<Real4Unaligned*>(out + 3 * v) = joint;
        }
    } else if (p.channels == 3 && !joints) {
        for (; v < count; ++v) {
            const real* joint = frame + v * p.x_joint;
            out[3 * v] = joint[0], out[3 * v + 1] = joint[p.x_channel], out[3 * v + 2] = joint[2 * p.x_channel];
        }
    }
    for (; v < count; ++v) {
        const real* joint = frame + (joints ? joints[v] : v) * p.x_joint;
        for (std::int64_t c = 0; c < p.channels; ++c) out[v * p.channels + c] = joint[c * p.x_channel];
    }
}

// after − before of `count` < wide_lanes numbers, 0 beyond them, where nothing is read.
inline void partial_difference(const real* before, const real* after, std::int64_t count, Narrow& difference) {
#if defined(__AVX512F__)
    const auto there = static_cast<__mmask8>((1u << count) - 1);
    difference = (Narrow)_mm256_sub_ps(_mm256_maskz_loadu_ps(there, after), _mm256_maskz_loadu_ps(there, before));
#elif defined(__AVX__)
    const __m128i there = _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(count)), _mm_setr_epi32(0, 1, 2, 3));
    difference = (Narrow)_mm_sub_ps(_mm_maskload_ps(after, there), _mm_maskload_ps(before, there));
#else
    difference = Narrow{};
    for (std::int64_t i = 0; i < count; ++i) difference[i] = after[i] - before[i];
#endif
}

// One body's step from frame to frame, of `size` numbers each: those ≡ k (mod 8) go into sum k of the frame.
template <bool with_frame, bool with_joints>
inline void add_flat_step(const real* before, const real* after, std::int64_t size, double* frame, double* totals) {
    Wide sums[parts];
    for (int part = 0; part < parts && with_frame; ++part) sums[part] = reinterpret_cast<const Wide*>(frame)[part];
    const auto add = [&](std::int64_t e, int part, const Narrow& difference) {
        Wide d;
        widen(difference, d);
        d *= d;
        if (with_frame) sums[part] += d;
        if (with_joints) *reinterpret_cast<Wide*>(totals + e) += d;
    };
    const auto whole = [&](std::int64_t e, int part) {
        add(e, part, *reinterpret_cast<const Narrow*>(after + e) - *reinterpret_cast<const Narrow*>(before + e));
    };
    std::int64_t e = 0;
    for (; e + motion_lanes <= size; e += motion_lanes)
        for (int part = 0; part < parts; ++part) whole(e + part * wide_lanes, part);
    for (int part = 0; part < parts && e < size; ++part, e += wide_lanes) {
        if (e + wide_lanes <= size) {
            whole(e, part);
        } else {
            Narrow difference;
            partial_difference(before + e, after + e, size - e, difference);
            add(e, part, difference);
        }
    }
    for (int part = 0; part < parts && with_frame; ++part) reinterpret_cast<Wide*>(frame)[part] = sums[part];
}

// ---- scores ----

// The squared change q of one lane's joint, for weights U: the upper triangle of W = SᵀS, off its diagonal doubled.
// difference(c, d) gives the change of channel c.
template <int dims, class Difference>
inline void change(std::int64_t channels, const double* weights, Wide& q, const Difference& difference) {
    q = Wide{};
    if constexpr (dims == 2) {
        Wide a, b;
        difference(0, a), difference(1, b);
        q = a * (weights[0] * a + weights[1] * b) + b * (weights[3] * b);
    } else if constexpr (dims == 3) {
        Wide a, b, c;
        difference(0, a), difference(1, b), difference(2, c);
        q = a * (weights[0] * a + weights[1] * b + weights[2] * c) + b * (weights[3] * b + weights[4] * c) +
            c * (weights[5] * c);
    }
    for (std::int64_t c = dims; c < channels; ++c) {
        Wide d;
        difference(c, d);
        q += d * d;
    }
}

// The same from two laid out frames.
template <int dims, int fixed_channels> inline void change(const real* before, const real* after, std::int64_t plane,
                                                           std::int64_t channels, const double* weights, Wide& q) {
    if constexpr (fixed_channels >= 0) channels = fixed_channels;
    change<dims>(channels, weights, q, [&](std::int64_t c, Wide& d) {
        widen(
            *reinterpret_cast<const Narrow*>(after + c * plane) - *reinterpret_cast<const Narrow*>(before + c * plane),
            d);
    });
}

// One body's step from frame to frame. `before` and `after` are laid out, `plane` apart, or hold dense triples.
template <int dims, int fixed_channels, bool with_frame, bool with_joints, bool triples>
inline void add_step(const real* before, const real* after, std::int64_t plane, std::int64_t count,
                     std::int64_t channels, const double* weights, const std::int64_t* tail, double* frame,
                     double* totals) {
    Wide sums[parts];
    for (int part = 0; part < parts && with_frame; ++part) sums[part] = reinterpret_cast<const Wide*>(frame)[part];
    const auto add = [&](std::int64_t v, bool last) {
        Eight d[3];
        if constexpr (triples) differences(before + 3 * v, after + 3 * v, last ? count - v : 8, d[0], d[1], d[2]);
        for (int part = 0; part < parts; ++part) {
            const std::int64_t at = v + part * wide_lanes;
            Wide q;
            if constexpr (triples)
                change<dims>(3, weights, q, [&](std::int64_t c, Wide& wide) {
                    widen(reinterpret_cast<const Narrow*>(&d[c])[part], wide);
                });
            else
                change<dims, fixed_channels>(before + at, after + at, plane, channels, weights, q);
            if (last) q = (Wide)((WideBits)q & reinterpret_cast<const WideBits*>(tail)[part]);
            if (with_frame) sums[part] += q;
            if (with_joints) *reinterpret_cast<Wide*>(totals + at) += q;
        }
    };
    std::int64_t v = 0;
    for (; v + motion_lanes <= count; v += motion_lanes) add(v, false);
    if (v < count) add(v, true);
    for (int part = 0; part < parts && with_frame; ++part) reinterpret_cast<Wide*>(frame)[part] = sums[part];
}

inline float mean(double total, std::int64_t count) {
    return static_cast<float>((total < 0 ? 0 : total) / static_cast<double>(count > 0 ? count : 1));
}

inline double merge(const double* s) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

inline void weights_of(const real* s, std::int64_t dims, double weights[6]) {
    for (std::int64_t a = 0, i = 0; a < dims; ++a, i = 3)
        for (std::int64_t b = a; b < dims; ++b) {
            double total = static_cast<double>(s[a]) * static_cast<double>(s[b]);
            for (std::int64_t e = 1; e < dims; ++e)
                total += static_cast<double>(s[e * dims + a]) * static_cast<double>(s[e * dims + b]);
            weights[a == 2 ? 5 : i + b - a] = a == b ? total : 2 * total;
        }
}

// One body's steps [first, last) over `count` joints; row(t) is where frame t begins.
template <bool with_frame, bool with_joints, class Row>
inline void add_flat_steps(const MotionParams<real>& p, const Row& row, const std::int32_t* joints, std::int64_t first,
                           std::int64_t last, std::int64_t count) {
    const bool flat = !joints && p.x_channel == 1 && p.x_joint == p.channels;
    const std::int64_t size = count * p.channels;
    real *kept = p.rows, *next = p.rows + size;
    const auto read = [&](std::int64_t t, real* to) -> const real* {
        if (flat) return row(t);
        lay_out_flat(p, row(t), joints, count, to);
        return to;
    };
    const real* before = read(first, kept);
    for (std::int64_t t = first; t < last; ++t) {
        const real* after = read(t + 1, next);
        add_flat_step<with_frame, with_joints>(before, after, size, p.frame_totals + (t - first) * motion_lanes,
                                               p.joint_totals);
        before = after;
        real* free = kept;
        kept = next, next = free;
    }
}

// Steps [first, last) of clip n over joints [from, from + count).
template <int dims, int fixed_channels, bool with_frame, bool with_joints>
inline void score(const MotionParams<real>& p, std::int64_t n, std::int64_t first, std::int64_t last, std::int64_t from,
                  std::int64_t count) {
    const std::int32_t* frames = p.view.frames ? p.view.frames + n * p.view.frames_stride : nullptr;
    const std::int32_t* joints = p.view.joints ? p.view.joints + n * p.view.joints_stride + from : nullptr;
    const real* x = p.x + n * p.x_clip + (joints ? 0 : from * p.x_joint);
    const std::int64_t plane = (count + motion_lanes - 1) / motion_lanes * motion_lanes;
    const std::int64_t each = dims ? 1 : p.channels;  // sums of a joint
    double weights[6]{};
    weights_of(p.view.transform + n * p.view.transform_stride, dims, weights);
    alignas(64) std::int64_t tail[motion_lanes];
    for (int lane = 0; lane < motion_lanes; ++lane) tail[lane] = plane - motion_lanes + lane < count ? -1 : 0;
    if (with_frame)
        for (std::int64_t i = 0; i < (last - first) * motion_lanes; ++i) p.frame_totals[i] = 0;
    if (with_joints)
        for (std::int64_t i = 0; i < each * plane; ++i) p.joint_totals[i] = 0;
    for (std::int64_t m = 0; m < p.bodies && first < last; ++m) {
        const auto row = [&](std::int64_t t) { return x + m * p.x_body + (frames ? frames[t] : t) * p.x_frame; };
        const auto totals = [&](std::int64_t t) { return p.frame_totals + (t - first) * motion_lanes; };
        if constexpr (dims == 0) {
            add_flat_steps<with_frame, with_joints>(p, row, joints, first, last, count);
            continue;
        }
        if constexpr (fixed_channels == 3)
            if (dense_triples(p)) {
                for (std::int64_t t = first; t < last; ++t)
                    add_step<dims, 3, with_frame, with_joints, true>(row(t), row(t + 1), 0, count, 3, weights, tail,
                                                                     totals(t), p.joint_totals);
                continue;
            }
        real *before = p.rows, *after = p.rows + p.channels * plane;
        lay_out(p, row(first), joints, count, plane, before);
        for (std::int64_t t = first; t < last; ++t) {
            lay_out(p, row(t + 1), joints, count, plane, after);
            add_step<dims, fixed_channels, with_frame, with_joints, false>(before, after, plane, count, p.channels,
                                                                           weights, tail, totals(t), p.joint_totals);
            real* free = before;
            before = after, after = free;
        }
    }
    if (with_frame)
        for (std::int64_t t = first; t < last; ++t)
            p.frame_out[n * p.frames + t] =
                mean(merge(p.frame_totals + (t - first) * motion_lanes), p.channels * p.bodies * count);
    if (with_joints)
        for (std::int64_t v = 0; v < count; ++v) {
            double total = 0;
            for (std::int64_t c = 0; c < each; ++c) total += p.joint_totals[v * each + c];
            p.joint_out[n * p.joints + from + v] = mean(total, p.channels * p.bodies * (last - first));
        }
}

template <int dims, int fixed_channels>
inline void score(const MotionParams<real>& p, std::int64_t n, std::int64_t piece) {
    const std::int64_t steps = p.frames > 0 ? p.frames - 1 : 0;
    if (!p.frame_out) {
        const std::int64_t from = piece * p.piece, rest = p.joints - from;
        score<dims, fixed_channels, false, true>(p, n, 0, steps, from, rest < p.piece ? rest : p.piece);
        return;
    }
    std::int64_t first = piece * p.piece, end = first + p.piece < p.frames ? first + p.piece : p.frames;
    const std::int64_t last = end < steps ? end : steps;
    if (end == p.frames && p.replicate && first == steps && first > 0) --first;  // the step that is repeated
    if (p.joint_out)
        score<dims, fixed_channels, true, true>(p, n, first, last, 0, p.joints);
    else
        score<dims, fixed_channels, true, false>(p, n, first, last, 0, p.joints);
    float* out = p.frame_out + n * p.frames;
    if (end == p.frames && end > 0) out[steps] = p.replicate && steps > 0 ? out[steps - 1] : 0;
}

}  // namespace

void motion(const MotionParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / p.pieces, piece = item % p.pieces;
        if (p.channels == 3 && p.view.dims == 3)
            score<3, 3>(p, n, piece);
        else if (p.view.dims == 3)
            score<3, -1>(p, n, piece);
        else if (p.view.dims == 2)
            score<2, -1>(p, n, piece);
        else
            score<0, -1>(p, n, piece);
    }
}

}  // namespace asma::cpu::ASMA_ISA
