// The way back through a view, for who has a gradient of what it reads.
#pragma once

#include "cuda/arrays.hpp"

namespace asma::cuda {

struct ViewSizes {
    std::int64_t clips, bodies, frames, joints, channels;  // of the view
    std::int64_t x_frames, x_joints;                       // of the clip
};

// x_grad (clips, bodies, x_frames, x_joints, channels), dense.
template <class G, class T> void gather_view_back(const char* op, Clip<const G> g, ViewMaps<float> view,
                                                  ViewSizes sizes, T* x_grad, std::uintptr_t stream);

}  // namespace asma::cuda
