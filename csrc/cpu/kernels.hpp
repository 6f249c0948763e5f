// Every kernel that is compiled per instruction set: its name and the struct of raw pointers it reads. A kernel does
// the work items [begin, end) and returns; threads are its caller's business.
#pragma once

#include <cstdint>

#include "cpu/block.hpp"
#include "cpu/dropout.hpp"
#include "cpu/edge_conv.hpp"
#include "cpu/frame_step.hpp"
#include "cpu/gather_view.hpp"
#include "cpu/graph_conv.hpp"
#include "cpu/moments.hpp"
#include "cpu/motion.hpp"
#include "cpu/temporal_conv.hpp"

// What edge inference needs.
#define ASMA_INFERENCE_KERNELS(KERNEL)                 \
    KERNEL(edge_conv, EdgeConvParams)                  \
    KERNEL(frame_conv, FrameConvParams)                \
    KERNEL(frame_graph, FrameGraphParams)              \
    KERNEL(graph_conv, GraphConvParams)                \
    KERNEL(nested_conv, TemporalConvParams)            \
    KERNEL(nested_pack, TemporalConvPackParams)        \
    KERNEL(temporal_conv, TemporalConvParams)          \
    KERNEL(temporal_conv_pack, TemporalConvPackParams) \
    KERNEL(winograd_conv, TemporalConvParams)          \
    KERNEL(winograd_pack, TemporalConvPackParams)

#if defined(ASMA_EDGE_ONLY)
#define ASMA_CPU_KERNELS(KERNEL) ASMA_INFERENCE_KERNELS(KERNEL)
#else
#define ASMA_CPU_KERNELS(KERNEL)                                    \
    ASMA_INFERENCE_KERNELS(KERNEL)                                  \
    KERNEL(add_sums_grad, AddSumsGradParams)                        \
    KERNEL(block_output, BlockOutputParams)                         \
    KERNEL(block_output_backward, BlockOutputBackwardParams)        \
    KERNEL(dropout, DropoutParams)                                  \
    KERNEL(gather_view, GatherViewParams)                           \
    KERNEL(gather_view_backward, GatherViewBackwardParams)          \
    KERNEL(graph_conv_backward, GraphConvBackwardParams)            \
    KERNEL(moments, MomentsParams)                                  \
    KERNEL(motion, MotionParams)                                    \
    KERNEL(nested_backward_weight, TemporalConvWeightParams)        \
    KERNEL(nested_merge, TemporalConvMergeParams)                   \
    KERNEL(temporal_conv_backward_bias, TemporalConvBiasParams)     \
    KERNEL(temporal_conv_backward_weight, TemporalConvWeightParams) \
    KERNEL(temporal_conv_merge, TemporalConvMergeParams)            \
    KERNEL(winograd_backward_weight, TemporalConvWeightParams)      \
    KERNEL(winograd_merge, TemporalConvMergeParams)
#endif

namespace asma::cpu {

template <class Real> struct KernelTable {
#define ASMA_KERNEL_POINTER(kernel, Params) void (*kernel)(const Params<Real>&, std::int64_t begin, std::int64_t end);
    ASMA_CPU_KERNELS(ASMA_KERNEL_POINTER)
#undef ASMA_KERNEL_POINTER
};

}  // namespace asma::cpu
