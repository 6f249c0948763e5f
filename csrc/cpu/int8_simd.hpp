// What int8 kernels ask of an instruction set, each in its own instructions:
//
//   Sums            sixteen columns' int32 sums; Weights, Quad: 4 channels of sixteen columns, of a row
//   multiply        Sums += Quad · Weights (u8 · s8, four products a lane; pairs of them never leave int16)
//   Columns         the same sums, a lane a column
//   store_columns   Columns → uint8
//   Words           int16 numbers, `words` at a time
//   Floats          `floats` at a time
//
// Compiled like cpu/simd.hpp, by ASMA_ISA and ASMA_VECTOR_BYTES, but without contraction to FMA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/int8_block.hpp"

#if defined(__AVX2__)
#pragma GCC diagnostic push  // GCC 12 warns of its own header, where a register is left as it was
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__ARM_NEON) && defined(ASMA_INT8_NEON)
#include <arm_neon.h>
#endif

namespace asma::cpu::ASMA_ISA {

static inline std::int32_t load_four(const std::uint8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return four;
}

#if defined(__AVX512BW__)

inline constexpr int most_panels = 3, words = 32, floats = 16;
template <int Panels> inline constexpr int most_rows = Panels == 1 ? 14 : Panels == 2 ? 13 : 8;

using Sums = __m512i;
using Columns = __m512i;
using Weights = __m512i;
using Quad = __m512i;
using Words = __m512i;

static inline Sums start(const std::int32_t* bias) {
    return _mm512_loadu_si512(bias);
}
static inline Weights load_weights(const std::int8_t* from) {
    return _mm512_loadu_si512(from);
}
static inline Quad load_quad(const std::uint8_t* from) {
    return _mm512_set1_epi32(load_four(from));
}

static inline void multiply(Sums& sums, Quad x, Weights w) {
#if defined(__AVX512VNNI__)
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w));  // GCC 12 copies and spills what the intrinsic sums
#else
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)));
#endif
}

static inline Sums shifted(Sums sums) {
    return _mm512_slli_epi32(sums, int8_first_bits);
}
static inline Columns finish(Sums sums) {
    return sums;
}
static inline Columns start_columns(const std::int32_t* bias) {
    return _mm512_loadu_si512(bias);
}

static inline void multiply_columns(Columns& sums, const std::uint8_t* x, const std::int8_t* w) {
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    const __m512i weights = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(codes, weights));
}

static inline void store_columns(std::uint8_t* to, Columns sums, const float* scale, const std::uint8_t* residual,
                                 const float* step, std::int64_t width) {
    __m512 numbers = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scale));
    if (residual) {
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(residual)));
        numbers = _mm512_add_ps(numbers, _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_loadu_ps(step)));
    }
    const __m128i codes = _mm_max_epi8(_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(numbers)), _mm_setzero_si128());
    if (width >= 16)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
    else
        _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1U << width) - 1), codes);
}

static inline Words same_word(std::int16_t value) {
    return _mm512_set1_epi16(value);
}
static inline Words load_words(const std::uint8_t* from) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
static inline Words add_product(Words sum, Words a, Words b) {
    return _mm512_add_epi16(sum, _mm512_mullo_epi16(a, b));
}
static inline void store_words(std::uint8_t* to, Words sum, Words scale, Words zero) {
    Words codes = _mm512_add_epi16(_mm512_mulhrs_epi16(sum, scale), zero);
    codes = _mm512_min_epi16(_mm512_max_epi16(codes, _mm512_setzero_si512()), _mm512_set1_epi16(int8_most));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(codes));
}

using Floats = __m512;
static inline Floats same_float(float value) {
    return _mm512_set1_ps(value);
}
static inline Floats load_floats(const float* from) {
    return _mm512_loadu_ps(from);
}
static inline Floats add_product(Floats sum, Floats a, Floats b) {
    return _mm512_add_ps(sum, _mm512_mul_ps(a, b));
}
static inline void store_halves(std::uint8_t* upper, std::uint8_t* lower, Floats sum) {
    sum = _mm512_min_ps(_mm512_max_ps(sum, _mm512_setzero_ps()), same_float(int8_first_most));
    const __m512i codes = _mm512_cvtps_epi32(sum), low = _mm512_and_si512(codes, _mm512_set1_epi32(int8_most));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(upper),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(codes, int8_first_bits)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(lower), _mm512_cvtepi32_epi8(low));
}

#elif defined(__AVX2__)

inline constexpr int most_panels = 1, words = 16, floats = 8;
#if defined(__AVXVNNI__)
template <int Panels> inline constexpr int most_rows = 6;
#else
template <int Panels> inline constexpr int most_rows = 5;
#endif

struct Sums {
    __m256i low, high;
};
using Columns = Sums;
using Weights = Sums;
using Quad = __m256i;
using Words = __m256i;

static inline __m256i load_256(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
static inline Sums start(const std::int32_t* bias) {
    return {load_256(bias), load_256(bias + 8)};
}
static inline Weights load_weights(const std::int8_t* from) {
    return {load_256(from), load_256(from + 32)};
}
static inline Quad load_quad(const std::uint8_t* from) {
    return _mm256_set1_epi32(load_four(from));
}

static inline __m256i add_quads(__m256i sums, __m256i x, __m256i w) {
#if defined(__AVXVNNI__)
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(x), "x"(w));  // GCC 12 copies what the intrinsic sums
    return sums;
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
#endif
}

static inline void multiply(Sums& sums, Quad x, const Weights& w) {
    sums.low = add_quads(sums.low, x, w.low);
    sums.high = add_quads(sums.high, x, w.high);
}

static inline Sums shifted(const Sums& sums) {
    return {_mm256_slli_epi32(sums.low, int8_first_bits), _mm256_slli_epi32(sums.high, int8_first_bits)};
}
static inline Columns finish(const Sums& sums) {
    return sums;
}
static inline Columns start_columns(const std::int32_t* bias) {
    return start(bias);
}

static inline __m128i load_128(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

static inline void multiply_columns(Columns& sums, const std::uint8_t* x, const std::int8_t* w) {
    const __m256i products = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(load_128(x)), _mm256_cvtepi8_epi16(load_128(w)));
    sums.low = _mm256_add_epi32(sums.low, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(products)));
    sums.high = _mm256_add_epi32(sums.high, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(products, 1)));
}

// Sixteen numbers of two vectors of int16, saturated to 0..127, in order.
static inline __m128i codes_of(__m256i numbers) {
    const __m128i codes = _mm_packus_epi16(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    return _mm_min_epu8(codes, _mm_set1_epi8(int8_most));
}

static inline void store_columns(std::uint8_t* to, const Columns& sums, const float* scale,
                                 const std::uint8_t* residual, const float* step, std::int64_t width) {
    __m256 low = _mm256_mul_ps(_mm256_cvtepi32_ps(sums.low), _mm256_loadu_ps(scale));
    __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(sums.high), _mm256_loadu_ps(scale + 8));
    if (residual) {
        const __m128i codes = load_128(residual);
        const __m256 beside = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
        const __m256 after = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)));
        low = _mm256_add_ps(low, _mm256_mul_ps(beside, _mm256_loadu_ps(step)));
        high = _mm256_add_ps(high, _mm256_mul_ps(after, _mm256_loadu_ps(step + 8)));
    }
    const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    const __m128i codes = codes_of(_mm256_permute4x64_epi64(packed, 0xD8));
    if (width >= 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
    } else {
        alignas(16) std::uint8_t some[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(some), codes);
        for (std::int64_t i = 0; i < width; i += 4) __builtin_memcpy(to + i, some + i, 4);
    }
}

static inline Words same_word(std::int16_t value) {
    return _mm256_set1_epi16(value);
}
static inline Words load_words(const std::uint8_t* from) {
    return _mm256_cvtepu8_epi16(load_128(from));
}
static inline Words add_product(Words sum, Words a, Words b) {
    return _mm256_add_epi16(sum, _mm256_mullo_epi16(a, b));
}
static inline void store_words(std::uint8_t* to, Words sum, Words scale, Words zero) {
    const __m128i codes = codes_of(_mm256_add_epi16(_mm256_mulhrs_epi16(sum, scale), zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
}

using Floats = __m256;
static inline Floats same_float(float value) {
    return _mm256_set1_ps(value);
}
static inline Floats load_floats(const float* from) {
    return _mm256_loadu_ps(from);
}
static inline Floats add_product(Floats sum, Floats a, Floats b) {
    return _mm256_add_ps(sum, _mm256_mul_ps(a, b));
}
static inline void store_halves(std::uint8_t* upper, std::uint8_t* lower, Floats sum) {
    sum = _mm256_min_ps(_mm256_max_ps(sum, _mm256_setzero_ps()), same_float(int8_first_most));
    const __m256i codes = _mm256_cvtps_epi32(sum);
    const __m128i eight = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    const __m128i high = _mm_srli_epi16(eight, int8_first_bits), low = _mm_and_si128(eight, _mm_set1_epi16(int8_most));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(upper), _mm_packus_epi16(high, high));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(lower), _mm_packus_epi16(low, low));
}

#elif defined(__ARM_NEON) && defined(ASMA_INT8_NEON)

inline constexpr int most_panels = 1, words = 8, floats = 4;
#if defined(__ARM_FEATURE_DOTPROD)
template <int Panels> inline constexpr int most_rows = 6;
#else
template <int Panels> inline constexpr int most_rows = 2;
#endif

struct Columns {
    int32x4_t v[4];
};
struct Weights {
    int8x16_t v[4];
};
using Quad = int8x16_t;  // 0..127: signed and unsigned are the same
using Words = int16x8_t;

static inline Columns start_columns(const std::int32_t* bias) {
    return {{vld1q_s32(bias), vld1q_s32(bias + 4), vld1q_s32(bias + 8), vld1q_s32(bias + 12)}};
}
static inline Weights load_weights(const std::int8_t* from) {
    return {{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
}
static inline Quad load_quad(const std::uint8_t* from) {
    return vreinterpretq_s8_s32(vdupq_n_s32(load_four(from)));
}

#if defined(__ARM_FEATURE_DOTPROD)
using Sums = Columns;
static inline Sums start(const std::int32_t* bias) {
    return start_columns(bias);
}
static inline void multiply(Sums& sums, Quad x, const Weights& w) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums.v[i] = vdotq_s32(sums.v[i], x, w.v[i]);
}
static inline Columns finish(const Sums& sums) {
    return sums;
}
#else
struct Sums {
    int32x4_t v[8];  // two lanes a column
};
static inline Sums start(const std::int32_t* bias) {
    Sums sums;
    const int32x4_t zero = vdupq_n_s32(0);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int32x4_t four = vld1q_s32(bias + 4 * i);
        sums.v[2 * i] = vzip1q_s32(four, zero), sums.v[2 * i + 1] = vzip2q_s32(four, zero);
    }
    return sums;
}
static inline void multiply(Sums& sums, Quad x, const Weights& w) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        sums.v[2 * i] = vpadalq_s16(sums.v[2 * i], vmull_s8(vget_low_s8(x), vget_low_s8(w.v[i])));
        sums.v[2 * i + 1] = vpadalq_s16(sums.v[2 * i + 1], vmull_high_s8(x, w.v[i]));
    }
}
// Two products of 127 · 127 fit into int16: one addition of pairs for both.
static inline void multiply_two(Sums& sums, Quad x, Quad y, const Weights& w, const Weights& u) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w.v[i])), high = vmull_high_s8(x, w.v[i]);
        sums.v[2 * i] = vpadalq_s16(sums.v[2 * i], vmlal_s8(low, vget_low_s8(y), vget_low_s8(u.v[i])));
        sums.v[2 * i + 1] = vpadalq_s16(sums.v[2 * i + 1], vmlal_high_s8(high, y, u.v[i]));
    }
}
static inline Columns finish(const Sums& sums) {
    Columns columns;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) columns.v[i] = vpaddq_s32(sums.v[2 * i], sums.v[2 * i + 1]);
    return columns;
}
#endif

static inline Sums shifted(Sums sums) {
#pragma GCC unroll 8
    for (int32x4_t& four : sums.v) four = vshlq_n_s32(four, int8_first_bits);
    return sums;
}

static inline void multiply_columns(Columns& sums, const std::uint8_t* x, const std::int8_t* w) {
    const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(x)), weights = vld1q_s8(w);
    const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(weights)), high = vmull_high_s8(codes, weights);
    sums.v[0] = vaddw_s16(sums.v[0], vget_low_s16(low)), sums.v[1] = vaddw_high_s16(sums.v[1], low);
    sums.v[2] = vaddw_s16(sums.v[2], vget_low_s16(high)), sums.v[3] = vaddw_high_s16(sums.v[3], high);
}

static inline void store_columns(std::uint8_t* to, const Columns& sums, const float* scale,
                                 const std::uint8_t* residual, const float* step, std::int64_t width) {
    int32x4_t rounded[4];
    uint16x8_t beside[2] = {};
    if (residual) {
        const uint8x16_t codes = vld1q_u8(residual);
        beside[0] = vmovl_u8(vget_low_u8(codes)), beside[1] = vmovl_high_u8(codes);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        float32x4_t numbers = vmulq_f32(vcvtq_f32_s32(sums.v[i]), vld1q_f32(scale + 4 * i));
        if (residual) {
            const uint16x8_t eight = beside[i / 2];
            const uint32x4_t four = i % 2 ? vmovl_high_u16(eight) : vmovl_u16(vget_low_u16(eight));
            numbers = vaddq_f32(numbers, vmulq_f32(vcvtq_f32_u32(four), vld1q_f32(step + 4 * i)));
        }
        rounded[i] = vcvtnq_s32_f32(numbers);
    }
    const int16x8_t low = vcombine_s16(vqmovn_s32(rounded[0]), vqmovn_s32(rounded[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(rounded[2]), vqmovn_s32(rounded[3]));
    const uint8x16_t codes = vminq_u8(vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)), vdupq_n_u8(int8_most));
    if (width >= 16) {
        vst1q_u8(to, codes);
    } else {
        std::uint8_t some[16];
        vst1q_u8(some, codes);
        for (std::int64_t i = 0; i < width; i += 4) __builtin_memcpy(to + i, some + i, 4);
    }
}

static inline Words same_word(std::int16_t value) {
    return vdupq_n_s16(value);
}
static inline Words load_words(const std::uint8_t* from) {
    return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from)));
}
static inline Words add_product(Words sum, Words a, Words b) {
    return vmlaq_s16(sum, a, b);
}
static inline void store_words(std::uint8_t* to, Words sum, Words scale, Words zero) {
    const Words codes = vaddq_s16(vqrdmulhq_s16(sum, scale), zero);
    vst1_u8(to, vmin_u8(vqmovun_s16(codes), vdup_n_u8(int8_most)));
}

using Floats = float32x4_t;
static inline Floats same_float(float value) {
    return vdupq_n_f32(value);
}
static inline Floats load_floats(const float* from) {
    return vld1q_f32(from);
}
static inline Floats add_product(Floats sum, Floats a, Floats b) {
    return vaddq_f32(sum, vmulq_f32(a, b));
}
static inline void store_halves(std::uint8_t* upper, std::uint8_t* lower, Floats sum) {
    sum = vminq_f32(vmaxnmq_f32(sum, vdupq_n_f32(0.0F)), same_float(int8_first_most));
    const uint16x4_t codes = vmovn_u32(vcvtnq_u32_f32(sum)), low = vand_u16(codes, vdup_n_u16(int8_most));
    const uint16x8_t halves = vcombine_u16(vshr_n_u16(codes, int8_first_bits), low);
    const uint32x2_t both = vreinterpret_u32_u8(vmovn_u16(halves));
    const std::uint32_t first = vget_lane_u32(both, 0), second = vget_lane_u32(both, 1);
    __builtin_memcpy(upper, &first, sizeof first);
    __builtin_memcpy(lower, &second, sizeof second);
}

#else  // without intrinsics

inline constexpr int most_panels = 1, words = 8, floats = 4;
template <int Panels> inline constexpr int most_rows = 2;

struct Sums {
    std::int32_t v[16];
};
using Columns = Sums;
using Weights = const std::int8_t*;
using Quad = const std::uint8_t*;
struct Words {
    std::int16_t v[words];
};

static inline Sums start(const std::int32_t* bias) {
    Sums sums;
    __builtin_memcpy(sums.v, bias, sizeof sums.v);
    return sums;
}
static inline Weights load_weights(const std::int8_t* from) {
    return from;
}
static inline Quad load_quad(const std::uint8_t* from) {
    return from;
}
static inline void multiply(Sums& sums, Quad x, Weights w) {
    for (int n = 0; n < 16; ++n)
        sums.v[n] += x[0] * w[4 * n] + x[1] * w[4 * n + 1] + x[2] * w[4 * n + 2] + x[3] * w[4 * n + 3];
}
static inline Sums shifted(Sums sums) {
    for (std::int32_t& sum : sums.v) sum <<= int8_first_bits;
    return sums;
}
static inline Columns finish(const Sums& sums) {
    return sums;
}
static inline Columns start_columns(const std::int32_t* bias) {
    return start(bias);
}
static inline void multiply_columns(Columns& sums, const std::uint8_t* x, const std::int8_t* w) {
    for (int n = 0; n < 16; ++n) sums.v[n] += x[n] * w[n];
}

// Half to even and in 0..most; of what is not a number 0.
static inline std::int32_t rounded(float number, int most) {
    number = number > 0.0F ? number : 0.0F;
    number = number < static_cast<float>(most) ? number : static_cast<float>(most);
    const float whole = number + 8388608.0F;  // 2^23: no bit for fractions
    std::int32_t bits;
    __builtin_memcpy(&bits, &whole, sizeof bits);
    return bits & most;  // a power of two less one
}

static inline void store_columns(std::uint8_t* to, const Columns& sums, const float* scale,
                                 const std::uint8_t* residual, const float* step, std::int64_t width) {
    for (int n = 0; n < (width < 16 ? static_cast<int>(width) : 16); ++n) {
        float number = static_cast<float>(sums.v[n]) * scale[n];
        if (residual) {
            const float beside = static_cast<float>(residual[n]) * step[n];
            number = number + beside;
        }
        to[n] = static_cast<std::uint8_t>(rounded(number, int8_most));
    }
}

static inline Words same_word(std::int16_t value) {
    Words same;
    for (int i = 0; i < words; ++i) same.v[i] = value;
    return same;
}
static inline Words load_words(const std::uint8_t* from) {
    Words loaded;
    for (int i = 0; i < words; ++i) loaded.v[i] = from[i];
    return loaded;
}
static inline Words add_product(Words sum, Words a, Words b) {  // partial sums may wrap around; the whole does not
    for (int i = 0; i < words; ++i) sum.v[i] = static_cast<std::int16_t>(sum.v[i] + a.v[i] * b.v[i]);
    return sum;
}
static inline void store_words(std::uint8_t* to, Words sum, Words scale, Words zero) {
    for (int i = 0; i < words; ++i) {
        const int code = ((sum.v[i] * scale.v[i] + (1 << 14)) >> 15) + zero.v[i];
        to[i] = static_cast<std::uint8_t>(code < 0 ? 0 : code > int8_most ? int8_most : code);
    }
}

struct Floats {
    float v[floats];
};
static inline Floats same_float(float value) {
    return {{value, value, value, value}};
}
static inline Floats load_floats(const float* from) {
    return {{from[0], from[1], from[2], from[3]}};
}
static inline Floats add_product(Floats sum, Floats a, Floats b) {
    for (int i = 0; i < floats; ++i) {
        const float product = a.v[i] * b.v[i];
        sum.v[i] = sum.v[i] + product;
    }
    return sum;
}
static inline void store_halves(std::uint8_t* upper, std::uint8_t* lower, Floats sum) {
    for (int i = 0; i < floats; ++i) {
        const std::int32_t code = rounded(sum.v[i], int8_first_most);
        upper[i] = static_cast<std::uint8_t>(code >> int8_first_bits);
        lower[i] = static_cast<std::uint8_t>(code & int8_most);
    }
}

#endif

}  // namespace asma::cpu::ASMA_ISA
