// The maps of a view as the kernels of the CPU and of CUDA read them.
#pragma once

#include <cstdint>

namespace asma {

// How a view reads a clip; null maps mean the identity. Strides are 0 where one row serves every clip.
template <class Real> struct ViewMaps {
    const std::int32_t* frames;  // (N, T')
    const std::int32_t* joints;  // (N, V')
    const Real* transform;       // (N, d, d), dense per clip
    std::int64_t frames_stride, joints_stride, transform_stride;
    std::int64_t dims;  // d: 0 without a transform
};

}  // namespace asma
