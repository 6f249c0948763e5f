// Graph convolution of few channels: where a joint has two or three edges and three coordinates, gathering them first
// and multiplying then costs more in moving numbers about than in products. Here every product is of one coordinate
// with the columns, kept in registers for several frames.
#include "cpu/edge_conv.hpp"

#include "cpu/conv_rows.hpp"
#include "cpu/packing.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

template <int frames> void convolve_frames(const EdgeConvParams<real>& p, const real* x, real* out) {
    const std::int64_t padded = packed_columns(p.columns), x_frame = p.joints * p.channels,
                       out_frame = p.joints * p.columns;
    for (std::int64_t w = 0; w < p.joints; ++w)
        for (std::int64_t n = 0; n < p.columns; n += lanes) {
            Vec sums[frames];
            for (int t = 0; t < frames; ++t) sums[t] = load(p.bias + w * padded + n);
            for (std::int32_t e = p.starts[w]; e < p.starts[w + 1]; ++e) {
                const real* const weight = p.weight + e * p.channels * padded + n;
                const real* const from = x + p.others[e] * p.channels;
                for (std::int64_t c = 0; c < p.channels; ++c) {
                    const Vec factor = load(weight + c * padded);
                    for (int t = 0; t < frames; ++t) sums[t] += factor * broadcast(from[t * x_frame + c]);
                }
            }
            real* const to = out + w * p.columns + n;
            for (int t = 0; t < frames; ++t) {
                const Vec sum = relu(sums[t]);
                if (n + lanes <= p.columns) {
                    store(to + t * out_frame, sum);
                } else {
                    for (std::int64_t i = 0; i < p.columns - n; ++i) to[t * out_frame + i] = sum[i];
                }
            }
        }
}

}  // namespace

void edge_conv(const EdgeConvParams<real>& p, std::int64_t begin, std::int64_t end) {
    const std::int64_t blocks = (p.frames + edge_conv_frames - 1) / edge_conv_frames;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t row = item / blocks, first = item % blocks * edge_conv_frames;
        const std::int64_t left = p.frames - first, x_frame = p.joints * p.channels, out_frame = p.joints * p.columns;
        const real* const x = p.x + (row * p.frames + first) * x_frame;
        real* const out = p.out + (row * p.frames + first) * out_frame;
        if (left >= edge_conv_frames) {
            convolve_frames<edge_conv_frames>(p, x, out);
            continue;
        }
        std::int64_t t = 0;
        for (; t + 2 <= left; t += 2) convolve_frames<2>(p, x + t * x_frame, out + t * out_frame);
        if (t < left) convolve_frames<1>(p, x + t * x_frame, out + t * out_frame);
    }
}

}  // namespace asma::cpu::ASMA_ISA
