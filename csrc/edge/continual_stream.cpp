#include "edge/continual_stream.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace asma::edge {
namespace {

constexpr double most_streams = 4096;
constexpr double most_frames_read = 10'000;  // of one push

ContinualSettings checked(ContinualSettings settings, const Session& session) {
    const Model& model = session.network().model();
    FrameEngine::check_causal(session.network());
    if (model.recipe && settings.rate < 0 && model.rate == 0)
        throw Error(
            "a continual stream must know how many frames a second the network reads: export with rate, or "
            "give the stream one");
    if (settings.rate < 0) settings.rate = model.rate;
    static_cast<StreamSettings&>(settings) = checked_stream(settings, session);
    if (!is_frame_by_frame(model.recipe->rules))
        throw Error(
            "a continual stream prepares each frame by itself: preprocessing must have centre per-body or none, scale "
            "none, and rotate none, or frame with centre per-body; the model's has others");
    check_range("n_streams", static_cast<double>(settings.streams), 1, most_streams);
    if (settings.gap * settings.rate > most_frames_read)
        throw Error("a gap must have at most " + told(most_frames_read) + " frames, got " + told(settings.gap) +
                    " seconds of " + told(settings.rate));
    return settings;
}

}  // namespace

ContinualStream::ContinualStream(const Session& session, const ContinualSettings& settings)
    : ContinualStream(checked(settings, session), session) {}

ContinualStream::ContinualStream(const ContinualSettings& settings, const Session& session)
    : Stream(session.shared_network(), settings, settings.streams, nullptr),
      engine_(network_, {streams_, slots_, settings.pool, settings.spread}),
      frame_rate_(settings.rate),
      recorded_(2 * frame_.size()),
      read_(frame_.size()),
      forgotten_(fresh_.size()),
      headings_(fresh_.size(), no_turn) {}

void ContinualStream::restart() {
    Stream::restart();
    engine_.reset();
    std::fill(recorded_.begin(), recorded_.end(), 0.0F);
    std::fill(forgotten_.begin(), forgotten_.end(), std::uint8_t{0});
    std::fill(headings_.begin(), headings_.end(), no_turn);
    frames_read_ = 0, begun_ = false;
}

bool ContinualStream::take(double time) {
    const auto size = static_cast<std::ptrdiff_t>(frame_.size());
    now_ = 1 - now_;
    std::copy(frame_.begin(), frame_.end(), recorded_.begin() + now_ * size);
    for (std::size_t slot = 0; slot < fresh_.size(); ++slot) {
        if (!fresh_[slot]) continue;
        std::fill_n(recorded_.begin() + (1 - now_) * size + static_cast<std::ptrdiff_t>(slot) * body_, body_, 0.0F);
        forgotten_[slot] = 1, headings_[slot] = no_turn;
    }
    if (!begun_) begun_ = true, began_ = time;
    bool answered = false;
    for (;; ++frames_read_) {
        const double at = began_ + static_cast<double>(frames_read_) / frame_rate_;
        if (at > time + instant) break;
        read_frame(at > time - instant ? 1 : (at - before_) / (time - before_));
        const bool told = engine_.push(read_.data(), forgotten_.data());
        std::fill(forgotten_.begin(), forgotten_.end(), std::uint8_t{0});
        if (!told) continue;
        const std::int64_t last = engine_.told_frame();
        for (std::int64_t stream = 0; stream < streams_; ++stream)
            answer(stream, engine_.logits(stream), began_ + static_cast<double>(last) / frame_rate_, last + 1);
        answered = true;
    }
    before_ = time;
    return answered;
}

// The frame at `weight` of the way from the one before to this one, prepared; all of it is this one.
void ContinualStream::read_frame(double weight) {
    const auto size = static_cast<std::int64_t>(frame_.size());
    const std::int64_t channels = model().channels;
    const bool whole = weight >= 1;
    ClipView view;
    view.data = recorded_.data() + (whole ? now_ : 1 - now_) * size;
    view.bodies = streams_ * slots_, view.frames = 2, view.joints = model().joints, view.channels = channels;
    view.body_stride = body_, view.frame_stride = whole ? 0 : (now_ ? size : -size);
    view.joint_stride = channels, view.channel_stride = 1, view.dims = model().recipe->dims;
    for (std::int64_t slot = 0; slot < view.bodies; ++slot) {
        float* const to = read_.data() + slot * body_;
        if (view.present(slot, 0) || view.present(slot, 1))
            preprocess_between(view, model().recipe->rules, slot, whole ? 0 : weight,
                               headings_[static_cast<std::size_t>(slot)], to);
        else
            std::fill(to, to + body_, 0.0F);
    }
}

}  // namespace asma::edge
