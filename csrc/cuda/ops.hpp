// The ops on a device: arrays checked, one or few kernels launched on the stream that the first array names, nothing
// waited for and nothing allocated. Shapes and meanings are those of asma_fast/ops.
#pragma once

#include <optional>
#include <string>

#include "core/array.hpp"

namespace asma::cuda {

using Map = std::optional<Array>;

// Empty where a device is there that can run these kernels, else the reason, one sentence.
std::string why_not();

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

}  // namespace asma::cuda
