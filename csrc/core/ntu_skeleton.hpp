// NTU RGB+D's raw ".skeleton" text (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2020).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace asma {

// Every body of every frame, in the file's order: the first counts[0] bodies are frame 0's, and so on.
struct NtuRecording {
    static constexpr std::int64_t joints = 25, channels = 3;
    static constexpr std::int64_t max_frames = 100'000;  // 55 minutes at 30 frames a second
    static constexpr std::int64_t max_bodies = 100;      // a frame; the sensor tracks six

    std::vector<std::int32_t> counts;  // (T) bodies of each frame
    std::vector<std::uint64_t> ids;    // (B) as the sensor numbers bodies
    std::vector<float> coordinates;    // (B, V, C) in metres; NaN and infinities as they stand in the file
    std::vector<std::uint8_t> states;  // (B, V) 0 not tracked, 1 inferred, 2 tracked
};

// Memory grows with the bodies actually read, never with a count the file claims. Throws TextFormatError.
NtuRecording read_ntu_skeleton(std::string_view text);

}  // namespace asma
