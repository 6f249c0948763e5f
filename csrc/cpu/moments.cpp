// The moments of a clip in one pass. A frame's numbers, joint by joint, are one line; the products of a joint's
// coordinates are then those of the line with itself, shifted by up to C − 1: long loops over contiguous float64, in
// which those few products that pair different joints are summed too, and never read.
#include "cpu/moments.hpp"

#include "cpu/simd.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

using Params = MomentsParams<real>;

void read_frame(const Params& p, const real* frame, double* line) {
    const std::int64_t channels = p.channels;
    if (p.x_channel == 1 && p.x_joint == channels) {
        for (std::int64_t i = 0; i < p.joints * channels; ++i) line[i] = static_cast<double>(frame[i]);
        return;
    }
    for (std::int64_t v = 0; v < p.joints; ++v)
        for (std::int64_t c = 0; c < channels; ++c)
            line[v * channels + c] = static_cast<double>(frame[v * p.x_joint + c * p.x_channel]);
}

// `fixed`: the channels where they are known at compile time.
template <int fixed> void add_frame(const double* __restrict line, double* __restrict sums, std::int64_t count,
                                    std::int64_t channels, double weight) {
    if constexpr (fixed > 0) channels = fixed;
    if constexpr (fixed > 0) {
        for (std::int64_t i = 0; i < count; ++i) {
            const double number = weight * line[i];
            sums[i] += number;
            for (std::int64_t d = 0; d < fixed; ++d) sums[(1 + d) * count + i] += number * line[i + d];
        }
        return;
    }
    for (std::int64_t i = 0; i < count; ++i) sums[i] += weight * line[i];
    for (std::int64_t d = 0; d < channels; ++d)
        for (std::int64_t i = 0; i < count; ++i) sums[(1 + d) * count + i] += weight * line[i] * line[i + d];
}

void store_sums(const Params& p, std::int64_t n, const double* sums) {
    const std::int64_t channels = p.channels, count = p.joints * channels;
    double* first = p.first + n * count;
    double* second = p.second + n * count * channels;
    for (std::int64_t i = 0; i < count; ++i) first[i] = sums[i];
    for (std::int64_t v = 0; v < p.joints; ++v)
        for (std::int64_t c = 0; c < channels; ++c)
            for (std::int64_t d = 0; c + d < channels; ++d) {
                double* matrix = second + v * channels * channels;
                matrix[c * channels + c + d] = matrix[(c + d) * channels + c] =
                    sums[(1 + d) * count + v * channels + c];
            }
}

}  // namespace

void moments(const Params& p, std::int64_t begin, std::int64_t end) {
    const std::int64_t count = p.joints * p.channels, all = (p.channels + 2) * count + p.channels;
    double* const line = p.sums;
    double* const sums = line + count + p.channels;
    for (std::int64_t n = begin; n < end; ++n) {
        for (std::int64_t i = 0; i < all; ++i) p.sums[i] = 0;
        for (std::int64_t t = 0; t < p.x_frames; ++t) p.reads[t] = p.frames ? 0 : 1;
        for (std::int64_t t = 0; p.frames && t < p.kept; ++t) ++p.reads[p.frames[n * p.frames_stride + t]];
        for (std::int64_t m = 0; m < p.bodies; ++m)
            for (std::int64_t t = 0; t < p.x_frames; ++t) {
                if (p.reads[t] == 0) continue;
                read_frame(p, p.x + n * p.x_clip + m * p.x_body + t * p.x_frame, line);
                const double weight = p.reads[t];
                if (p.channels == 3)
                    add_frame<3>(line, sums, count, 3, weight);
                else
                    add_frame<0>(line, sums, count, p.channels, weight);
            }
        store_sums(p, n, sums);
    }
}

}  // namespace asma::cpu::ASMA_ISA
