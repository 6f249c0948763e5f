#include "edge/recording.hpp"

#include <algorithm>
#include <cmath>

#include "core/scratch.hpp"

namespace asma::edge {
namespace {

// Dense, with every body of a frame that has a number that is not finite emptied; their count.
std::int64_t take_finite(const ClipView& from, std::vector<float>& to) {
    std::int64_t emptied = 0;
    float* out = to.data();
    for (std::int64_t m = 0; m < from.bodies; ++m)
        for (std::int64_t t = 0; t < from.frames; ++t) {
            float* const first = out;
            bool finite = true;
            for (std::int64_t v = 0; v < from.joints; ++v)
                for (std::int64_t c = 0; c < from.channels; ++c, ++out) {
                    *out = from.joint(m, t, v)[c * from.channel_stride];
                    finite = finite && std::isfinite(*out);
                }
            if (!finite) std::fill(first, out, 0.0F);
            emptied += !finite;
        }
    return emptied;
}

}  // namespace

PreparedClip prepare(const Model& model, const ClipView& recording, std::int64_t most_frames,
                     std::int64_t most_bodies) {
    if (!model.recipe) throw Error("the model tells of no preprocessing: it reads clips that are preprocessed already");
    if (recording.bodies < 1 || recording.frames < 1 || recording.joints != model.joints ||
        recording.channels != model.channels)
        throw Error("a recording must have shape (M, T, " + std::to_string(model.joints) + ", " +
                    std::to_string(model.channels) + "), with a body and a frame at least");
    const Recipe& recipe = *model.recipe;
    const std::int64_t joint = recording.channels, frame = recording.joints * joint;
    std::vector<float> finite(static_cast<std::size_t>(checked_product({recording.bodies, recording.frames, frame})));
    PreparedClip clip{};
    clip.missing = take_finite(recording, finite);
    ClipView view = recording;
    view.data = finite.data(), view.dims = recipe.dims;
    view.channel_stride = 1, view.joint_stride = joint, view.frame_stride = frame;
    view.body_stride = recording.frames * frame;
    const std::vector<std::int64_t> valid = valid_frames(view, recipe.rules.length);
    if (valid.empty()) throw Unreadable("the recording must have a frame with a body in it");
    clip.frames = recipe.frames ? recipe.frames : static_cast<std::int64_t>(valid.size());
    clip.bodies = recipe.bodies ? recipe.bodies : recording.bodies;
    if (clip.frames > most_frames || std::max(clip.bodies, recording.bodies) > most_bodies)
        throw Error("the session was made for clips of " + std::to_string(most_frames) + " frames and " +
                    std::to_string(most_bodies) + " bodies, got a recording that comes to " +
                    std::to_string(clip.frames) + " frames and has " + std::to_string(recording.bodies) + " bodies");
    // All bodies are prepared together: the first may turn the others.
    const auto size = [&](std::int64_t bodies) {
        return static_cast<std::size_t>(checked_product({bodies, clip.frames, frame}));
    };
    clip.numbers.resize(size(std::max(clip.bodies, recording.bodies)));
    try {
        preprocess(view, recipe.rules, valid, clip.frames, clip.numbers.data());
    } catch (const std::domain_error& error) {
        throw Unreadable(error.what());
    }
    clip.numbers.resize(size(clip.bodies));
    return clip;
}

}  // namespace asma::edge
