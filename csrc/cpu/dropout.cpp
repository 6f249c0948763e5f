// Dropout keyed by sample. The work is Philox (cpu/random_bits.hpp).
#include "cpu/dropout.hpp"

#include "cpu/random_bits.hpp"

namespace asma::cpu::ASMA_ISA {

static_assert(dropout_piece % drawn_together == 0);

void dropout(const DropoutParams<real>& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / p.pieces, from = item % p.pieces * dropout_piece;
        const std::int64_t to = from + dropout_piece < p.size ? from + dropout_piece : p.size;
        const real* x = p.x + n * p.size;
        real* out = p.out + n * p.size;
        for (std::int64_t i = from; i < to; i += drawn_together) {
            Bits bits[drawn_together];
            draw_bits(p.seed, static_cast<std::uint64_t>(p.ids[n]), static_cast<std::uint32_t>(i / 8), p.purpose, bits);
            const std::int64_t until = i + drawn_together < to ? i + drawn_together : to;
            std::int64_t j = i;
            for (; j + lanes <= until; j += lanes) store(out + j, keep(load(x + j) * p.scale, bits + (j - i), p.cut));
            for (; j < until; ++j) out[j] = bits[j - i] < p.cut ? real{0} : x[j] * p.scale;
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
