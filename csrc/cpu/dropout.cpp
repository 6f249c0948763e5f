// Dropout keyed by sample. The work is Philox: independent counters run side by side, one in each 32-bit lane.
#include "cpu/dropout.hpp"

#include "cpu/simd.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace asma::cpu::ASMA_ISA {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of a word must come first in memory");

constexpr int counters = ASMA_VECTOR_BYTES / 4;  // computed together
constexpr int together = 8 * counters;           // elements they decide on
static_assert(dropout_piece % together == 0);

typedef std::uint32_t Words __attribute__((vector_size(ASMA_VECTOR_BYTES)));
typedef std::uint64_t Products __attribute__((vector_size(ASMA_VECTOR_BYTES)));
typedef std::uint16_t HalfWord __attribute__((may_alias));
typedef std::uint16_t Halves __attribute__((vector_size(ASMA_VECTOR_BYTES / 2), may_alias, aligned(2)));

// The 64-bit products of the low 32 bits of each 64-bit lane. Written as a multiplication of 64-bit lanes, compilers
// would make three of it.
#if defined(__AVX512F__)
inline void multiply_low(const Products& a, const Products& b, Products& product) {
    product = (Products)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
inline void multiply_low(const Products& a, const Products& b, Products& product) {
    product = (Products)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
#elif defined(__SSE2__)
inline void multiply_low(const Products& a, const Products& b, Products& product) {
    product = (Products)_mm_mul_epu32((__m128i)a, (__m128i)b);
}
#else
inline void multiply_low(const Products& a, const Products& b, Products& product) {
    product = (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
}
#endif

inline void multiply(const Words& words, std::uint64_t by, Words& high, Words& low) {
    const Products factor = by - Products{};
    Products even, odd;
    multiply_low((Products)words, factor, even);
    multiply_low((Products)words >> 32, factor, odd);
    low = (Words)((even & 0xFFFFFFFFu) | (odd << 32));
    high = (Words)((even >> 32) | (odd & 0xFFFFFFFF00000000u));
}

// The words of `counters` successive Philox4x32-10 calls from `first` on, call by call: 16 bits an element.
inline void random_words(std::uint64_t seed, std::uint64_t id, std::uint32_t first, std::uint32_t purpose,
                         std::uint64_t* words) {
    Words c0 = static_cast<std::uint32_t>(id) - Words{}, c1 = static_cast<std::uint32_t>(id >> 32) - Words{};
    Words c2 = first - Words{}, c3 = purpose - Words{};
    for (int lane = 0; lane < counters; ++lane) c2[lane] += static_cast<std::uint32_t>(lane);
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        Words high0, low0, high1, low1;
        multiply(c0, 0xD2511F53u, high0, low0);
        multiply(c2, 0xCD9E8D57u, high1, low1);
        c0 = high1 ^ c1 ^ key0;
        c2 = high0 ^ c3 ^ key1;
        c1 = low1;
        c3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    // Call by call, in pairs of words.
    const Products low = Products{} + 0xFFFFFFFFu, high = ~low;
    const Products first_even = ((Products)c0 & low) | ((Products)c1 << 32);
    const Products first_odd = ((Products)c0 >> 32) | ((Products)c1 & high);
    const Products second_even = ((Products)c2 & low) | ((Products)c3 << 32);
    const Products second_odd = ((Products)c2 >> 32) | ((Products)c3 & high);
    for (int pair = 0; pair < counters / 2; ++pair) {
        words[4 * pair] = first_even[pair];
        words[4 * pair + 1] = second_even[pair];
        words[4 * pair + 2] = first_odd[pair];
        words[4 * pair + 3] = second_odd[pair];
    }
}

inline void apply(const real* x, real* out, const HalfWord* bits, std::int64_t count, std::uint32_t cut, real scale) {
    std::int64_t i = 0;
    // GCC 12 leaves the plain loop scalar.
    if constexpr (sizeof(real) == sizeof(std::uint32_t))
        for (; i + counters <= count; i += counters) {
            const Words decisions = __builtin_convertvector(*reinterpret_cast<const Halves*>(bits + i), Words);
            store(out + i, (Vec)((Words)(load(x + i) * scale) & (Words)(decisions >= cut)));
        }
    for (; i < count; ++i) out[i] = bits[i] < cut ? real{0} : x[i] * scale;
}

}  // namespace

void dropout(const DropoutParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / p.pieces, from = item % p.pieces * dropout_piece;
        const std::int64_t to = from + dropout_piece < p.size ? from + dropout_piece : p.size;
        const real* x = p.x + n * p.size;
        real* out = p.out + n * p.size;
        for (std::int64_t i = from; i < to; i += together) {
            std::uint64_t words[2 * counters];
            random_words(p.seed, static_cast<std::uint64_t>(p.ids[n]), static_cast<std::uint32_t>(i / 8), p.purpose,
                         words);
            const auto* bits = reinterpret_cast<const HalfWord*>(words);
            if (to - i >= together)
                apply(x + i, out + i, bits, together, p.cut, p.scale);
            else
                apply(x + i, out + i, bits, to - i, p.cut, p.scale);
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
