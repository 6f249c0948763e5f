// How a temporal convolution is done, by its shape alone, and how its work is cut: what its callers share.
#pragma once

#include <cstdint>

#include "cpu/kernels.hpp"

namespace asma::cpu {

// Whichever takes the fewest products, the transforms beside them counted as a share of their products.
enum class ConvWay : std::uint8_t { direct, winograd, nested };

struct ConvPlan {
    ConvWay way = ConvWay::direct;
    FrameMap map{};  // for Winograd the input gradient is a convolution with reversed taps
    bool reversed = false;
    std::int64_t matrices = 0;  // of weights, channels × columns each
    NestedCut cut{};
};

ConvPlan conv_plan(const TemporalConvSizes& sizes, const FrameMap& map);

// Work items of a convolution, and what one needs.
struct ConvCut {
    std::int64_t block_frames, together, items;
    std::int64_t workspace;  // numbers of a thread, as cpu/temporal_conv.hpp lays them out
    std::int64_t grain;      // items worth a thread's while
};

// `loads`: with ConvLoad's scale. Throws std::length_error where a size does not fit into 63 bits.
ConvCut conv_cut(const TemporalConvSizes& sizes, const ConvPlan& plan, bool loads);

// Frames of a work item.
std::int64_t conv_block_frames(const TemporalConvSizes& sizes, const ConvPlan& plan);

// Numbers of one group's packed weights.
std::int64_t packed_weights(const TemporalConvSizes& sizes, const ConvPlan& plan);

template <class Real> auto conv_kernel(const KernelTable<Real>& kernels, ConvWay way) {
    return way == ConvWay::nested     ? kernels.nested_conv
           : way == ConvWay::winograd ? kernels.winograd_conv
                                      : kernels.temporal_conv;
}

template <class Real> auto pack_kernel(const KernelTable<Real>& kernels, ConvWay way) {
    return way == ConvWay::nested     ? kernels.nested_pack
           : way == ConvWay::winograd ? kernels.winograd_pack
                                      : kernels.temporal_conv_pack;
}

}  // namespace asma::cpu
