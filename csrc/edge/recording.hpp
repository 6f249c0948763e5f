// From a recording to the clip that a network reads, by the recipe in its model file.
#pragma once

#include <cstdint>
#include <vector>

#include "core/clip_view.hpp"
#include "edge/model.hpp"

namespace asma::edge {

// A recording of the right shape in which a recipe finds nothing that it could read.
struct Unreadable : Error {
    using Error::Error;
};

struct PreparedClip {
    std::vector<float> numbers;  // (M, T, V, C)
    std::int64_t bodies, frames;
    std::int64_t missing;  // bodies of frames that held a number that is not finite, and were taken for missing
};

// Throws Error where the model has no recipe, the recording does not fit it, no frame can be used, or the clip would
// be longer or have more bodies than wanted.
PreparedClip prepare(const Model& model, const ClipView& recording, std::int64_t most_frames, std::int64_t most_bodies);

}  // namespace asma::edge
