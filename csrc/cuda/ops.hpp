// The ops on a device: arrays checked, one or few kernels launched on the stream that the first array names, nothing
// waited for and nothing allocated. Shapes and meanings are those of asma_fast/ops.
#pragma once

#include <optional>
#include <string>

#include "core/array.hpp"

namespace asma::cuda {

using Map = std::optional<Array>;

// Empty, or one sentence: why no device can be used; why the current one cannot run these kernels.
std::string driver_why_not();
std::string device_why_not();

void joint_degree(const Array& edges, const Array& degree);
void frame_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                  const Array& out);
void joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out);
void frame_and_joint_motion(const Array& x, const Map& frames, const Map& joints, const Map& transform, bool replicate,
                            const Array& frame_out, const Array& joint_out);
void sample_joints(const Array& weights, std::int64_t drop, const Array& seed, const Array& ids, const Array& kept);
void sample_frames(const Array& scores, std::int64_t drop, bool high, std::int64_t random_drop, const Array& seed,
                   const Array& ids, const Array& kept);
void gather_view(const Array& x, const Map& frames, const Map& joints, const Map& transform, const Array& out);
void gather_view_backward(const Array& g, const Map& frames, const Map& joints, const Map& transform,
                          const Array& x_grad);

// Products in float32 are made by tensor cores, of 10 bits of mantissa, where `use_tf32`. A workspace of so many
// float32 as the function of that name says belongs to the call.
void graph_conv(const Array& x, const Array& weight, const Array& adjacency, const Map& bias, const Map& frames,
                const Map& joints, const Map& nodes, const Map& transform, const Map& scale, const Map& shift,
                const Map& pattern, const Array& out, bool use_tf32);
std::int64_t graph_conv_backward_workspace(const Array& g, const Array& x, const Array& weight, const Array& adjacency,
                                           const Map& bias, const Map& frames, const Map& joints, const Map& nodes,
                                           const Map& transform, const Map& scale, const Map& shift, const Map& pattern,
                                           const Map& x_grad, const Map& weight_grad, const Map& adjacency_grad,
                                           const Map& bias_grad, const Map& scale_grad, const Map& shift_grad);
void graph_conv_backward(const Array& g, const Array& x, const Array& weight, const Array& adjacency, const Map& bias,
                         const Map& frames, const Map& joints, const Map& nodes, const Map& transform, const Map& scale,
                         const Map& shift, const Map& pattern, const Map& x_grad, const Map& weight_grad,
                         const Map& adjacency_grad, const Map& bias_grad, const Map& scale_grad, const Map& shift_grad,
                         bool use_tf32, const Array& workspace);
void temporal_conv(const Array& x, const Array& weight, const Map& bias, std::int64_t stride, std::int64_t left,
                   std::int64_t dilation, std::int64_t groups, const Array& out, bool use_tf32);
std::int64_t temporal_conv_backward_workspace(const Array& g, const Array& x, const Array& weight, std::int64_t stride,
                                              std::int64_t left, std::int64_t dilation, std::int64_t groups,
                                              const Map& x_grad, const Map& weight_grad, const Map& bias_grad);
void temporal_conv_backward(const Array& g, const Array& x, const Array& weight, std::int64_t stride, std::int64_t left,
                            std::int64_t dilation, std::int64_t groups, const Map& x_grad, const Map& weight_grad,
                            const Map& bias_grad, bool use_tf32, const Array& workspace);

}  // namespace asma::cuda
