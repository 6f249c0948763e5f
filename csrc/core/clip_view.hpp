// Recorded frames as native code reads them.
#pragma once

#include <cstdint>

namespace asma {

// A clip (M, T, V, C) in any memory order; strides count elements. The first `dims` channels are coordinates, the
// others are scores. A body is absent from a frame where all its channels are zero.
struct ClipView {
    const float* data = nullptr;
    std::int64_t bodies = 0, frames = 0, joints = 0, channels = 0;
    std::int64_t body_stride = 0, frame_stride = 0, joint_stride = 0, channel_stride = 0;
    int dims = 3;

    const float* joint(std::int64_t body, std::int64_t frame, std::int64_t v) const {
        return data + body * body_stride + frame * frame_stride + v * joint_stride;
    }

    bool present(std::int64_t body, std::int64_t frame) const {
        for (std::int64_t v = 0; v < joints; ++v) {
            const float* from = joint(body, frame, v);
            for (std::int64_t c = 0; c < channels; ++c)
                if (from[c * channel_stride] != 0) return true;
        }
        return false;
    }
};

}  // namespace asma
