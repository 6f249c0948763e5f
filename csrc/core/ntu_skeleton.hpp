// NTU RGB+D's raw ".skeleton" text (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2020).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace asma {

struct NtuClip {
    static constexpr std::int64_t bodies = 2, joints = 25, channels = 3;
    static constexpr std::int64_t max_frames = 100'000;  // 55 minutes at 30 frames a second

    std::int64_t frames = 0;
    std::vector<float> coordinates;  // (F, M, V, C) in metres, zeros where a body is absent
};

// The first two bodies of each frame in the file's order, without tracking. Frames without a body are legal. Memory
// grows with the frames actually read, never with a count the file claims. Throws TextFormatError.
NtuClip read_ntu_skeleton(std::string_view text);

}  // namespace asma
