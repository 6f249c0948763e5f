// The 16 random bits of each element of a sample: Philox4x32-10 (core/philox.hpp), many counters side by side, and what
// they decide. Element i takes word ⌊i / 2⌋ mod 4 of call ⌊i / 8⌋, its low half if i is even, else its high half.
#pragma once

#include "cpu/simd.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace asma::cpu::ASMA_ISA {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of a word must come first in memory");

typedef std::uint32_t Words __attribute__((vector_size(ASMA_VECTOR_BYTES)));
typedef std::uint64_t Wide __attribute__((vector_size(ASMA_VECTOR_BYTES)));
typedef std::uint64_t WideUnaligned __attribute__((vector_size(ASMA_VECTOR_BYTES), may_alias, aligned(2)));
typedef std::uint16_t Bits __attribute__((may_alias));
typedef std::uint16_t HalfBits __attribute__((vector_size(ASMA_VECTOR_BYTES / 2), may_alias, aligned(2)));

inline constexpr int calls = ASMA_VECTOR_BYTES / 8;  // counters of one vector, a 64-bit lane each
inline constexpr int streams = 2;                    // vectors of counters computed together: their rounds overlap
inline constexpr int drawn_together = 8 * calls * streams;  // elements that one draw decides on

// The 64-bit products of the low 32 bits of each 64-bit lane. Written as a multiplication of 64-bit lanes, compilers
// would make three of it.
static inline Wide multiply_low(Wide a, Wide b) {
#if defined(__AVX512F__)
    return (Wide)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

static inline Wide exclusive_or(Wide a, Wide b, Wide c) {
#if defined(__AVX512F__)
    return (Wide)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
    return a ^ b ^ c;
#endif
}

// Lanes 0, 2, … of a and b side by side, or 1, 3, …: within each 128 bits.
static inline Wide interleave(Wide a, Wide b, bool odd) {
#if defined(__AVX512F__)
    return odd ? (Wide)_mm512_maskz_unpackhi_epi64(0xFF, (__m512i)a, (__m512i)b)
               : (Wide)_mm512_maskz_unpacklo_epi64(0xFF, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return odd ? (Wide)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b)
               : (Wide)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
#else
    return odd ? Wide{a[1], b[1]} : Wide{a[0], b[0]};
#endif
}

// The bits of `drawn_together` elements from call `first` on. Counters lie in the low halves of 64-bit lanes; the high
// halves hold remains that no product reads.
static inline void draw_bits(std::uint64_t seed, std::uint64_t id, std::uint32_t first, std::uint32_t purpose,
                             Bits* bits) {
    // Even lanes count the first half of the calls, odd lanes the second: interleave puts them in order.
    Wide order{};
    for (int lane = 0; lane < calls; ++lane)
        order[lane] = static_cast<std::uint64_t>(lane / 2 + lane % 2 * (calls / 2));
    Wide c0[streams], c1[streams], c2[streams], c3[streams];
    for (int s = 0; s < streams; ++s) {
        c0[s] = id - Wide{}, c1[s] = (id >> 32) - Wide{}, c3[s] = purpose - Wide{};
        c2[s] = order + (std::uint64_t{first} + static_cast<std::uint64_t>(s * calls));
    }
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    const Wide by0 = 0xD2511F53u - Wide{}, by1 = 0xCD9E8D57u - Wide{};
    for (int round = 0; round < 10; ++round) {
        for (int s = 0; s < streams; ++s) {
            const Wide product0 = multiply_low(c0[s], by0), product1 = multiply_low(c2[s], by1);
            c0[s] = exclusive_or(product1 >> 32, c1[s], key0 - Wide{});
            c2[s] = exclusive_or(product0 >> 32, c3[s], key1 - Wide{});
            c1[s] = product1;
            c3[s] = product0;
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    const Wide low = 0xFFFFFFFFu - Wide{};
    for (int s = 0; s < streams; ++s) {
        const Wide words01 = (c0[s] & low) | (c1[s] << 32), words23 = (c2[s] & low) | (c3[s] << 32);
        WideUnaligned* to = reinterpret_cast<WideUnaligned*>(bits) + 2 * s;
        to[0] = interleave(words01, words23, false);
        to[1] = interleave(words01, words23, true);
    }
}

// The values of elements whose bits are at least `cut`; zero for the others, whatever they are.
static inline Vec keep(Vec values, const Bits* bits, std::uint32_t cut) {
    if constexpr (sizeof(real) == sizeof(std::uint32_t)) {
        const Words decisions = __builtin_convertvector(*reinterpret_cast<const HalfBits*>(bits), Words);
        return (Vec)((Words)values & (Words)(decisions >= cut));
    } else {
        for (int lane = 0; lane < lanes; ++lane)
            if (bits[lane] < cut) values[lane] = 0;
        return values;
    }
}

}  // namespace asma::cpu::ASMA_ISA
