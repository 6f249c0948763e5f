#include "edge/window_stream.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/scratch.hpp"

namespace asma::edge {
namespace {

constexpr std::int64_t largest_ring = std::int64_t{1} << 28;  // numbers
constexpr std::int64_t longest_window = 1'000'000;            // frames
constexpr double usual_rate = 30;

// Of a full window.
std::int64_t frames_of(const WindowSettings& settings) {
    return static_cast<std::int64_t>(std::ceil(settings.seconds * settings.max_rate));
}

WindowSettings checked(WindowSettings settings, const Session& session) {
    const Model& model = session.network().model();
    if (settings.rate < 0) settings.rate = model.rate > 0 ? model.rate : usual_rate;
    if (settings.least_seconds < 0) settings.least_seconds = settings.seconds;
    static_cast<StreamSettings&>(settings) = checked_stream(settings, session);
    check_range("seconds", settings.seconds, 0.01, 3600);
    check_range("least_seconds", settings.least_seconds, 0, settings.seconds);
    check_range("hop", static_cast<double>(settings.hop), 1, 1e6);
    check_range("max_rate", settings.max_rate, 0.01, 1e6);
    if (settings.seconds * settings.max_rate > static_cast<double>(longest_window))
        throw Error("a window must have at most " + std::to_string(longest_window) + " frames, got " +
                    told(settings.seconds) + " seconds of " + told(settings.max_rate));
    if (model.recipe->frames == 0 && frames_of(settings) > session.network().most_frames())
        throw Error("the network reads every frame of a window, and the session was made for " +
                    std::to_string(session.network().most_frames()) + ", got " + told(settings.seconds) +
                    " seconds of max_rate " + told(settings.max_rate) + "; ask for more with max_frames");
    return settings;
}

}  // namespace

WindowStream::WindowStream(std::shared_ptr<Session> session, const WindowSettings& settings)
    : WindowStream(checked(settings, *session), session) {}

WindowStream::WindowStream(const WindowSettings& settings, std::shared_ptr<Session> session)
    : Stream(session->shared_network(), settings, 1, &session->busy()),
      session_(std::move(session)),
      settings_(settings),
      frame_size_(slots_ * body_),
      most_frames_(frames_of(settings_) + 1) {
    if (checked_product({most_frames_, frame_size_}) > largest_ring)
        throw Error("the window would need " +
                    std::to_string(2 * most_frames_ * frame_size_ / (std::int64_t{1} << 18)) +
                    " MiB; ask for fewer seconds, bodies or frames a second");
    const auto size = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    ring_.resize(size(most_frames_ * frame_size_)), window_.resize(ring_.size());
    times_.resize(size(most_frames_));
    logits_.resize(size(network_->classes()));
}

void WindowStream::restart() {
    Stream::restart();
    count_ = since_ = 0, begun_ = false;
}

std::int64_t WindowStream::kept(double time, std::int64_t& first) const {
    std::int64_t count = count_;
    for (first = first_; count > 0 && times_[static_cast<std::size_t>(first)] <= time - settings_.seconds + instant;
         --count)
        first = (first + 1) % most_frames_;
    return count;
}

void WindowStream::admit(double time, bool anew) const {
    std::int64_t first = 0;
    if (!anew && kept(time, first) == most_frames_)
        throw Error("frames must come at most " + told(settings_.max_rate) + " a second, got " +
                    std::to_string(most_frames_) + " within " + told(settings_.seconds) + " seconds");
}

bool WindowStream::take(double time) {
    std::int64_t first = 0;
    count_ = kept(time, first), first_ = first;
    if (!begun_) begun_ = true, began_ = time;
    for (std::int64_t slot = 0; slot < slots_; ++slot)
        for (std::int64_t t = 0; fresh_[static_cast<std::size_t>(slot)] && t < count_; ++t) {
            float* const former = frame_at(t) + slot * body_;
            std::fill(former, former + body_, 0.0F);
        }
    std::copy(frame_.begin(), frame_.end(), frame_at(count_));
    times_[static_cast<std::size_t>((first_ + count_) % most_frames_)] = time;
    ++count_;
    if (++since_ < settings_.hop || time - began_ < settings_.least_seconds - instant) return false;
    since_ = 0;
    run();
    return true;
}

void WindowStream::copy_window(float* to) const {
    for (std::int64_t m = 0; m < slots_; ++m)
        for (std::int64_t t = 0; t < count_; ++t, to += body_) {
            const float* const from = frame_at(t) + m * body_;
            std::copy(from, from + body_, to);
        }
}

std::vector<float> WindowStream::window(std::int64_t& frames) const {
    const Session::Turn turn(busy_);
    frames = count_;
    std::vector<float> numbers(static_cast<std::size_t>(count_ * frame_size_));
    copy_window(numbers.data());
    return numbers;
}

void WindowStream::run() {
    copy_window(window_.data());
    ClipView view;
    view.data = window_.data();
    view.bodies = slots_, view.frames = count_, view.joints = model().joints;
    view.channels = model().channels, view.channel_stride = 1, view.joint_stride = view.channels;
    view.frame_stride = body_, view.body_stride = count_ * body_;
    bool somebody = false;
    for (std::int64_t m = 0; m < view.bodies && !somebody; ++m)
        for (std::int64_t t = 0; t < count_ && !somebody; ++t) somebody = view.present(m, t);
    // Bodies may be there and not be read: by a recipe that looks at the first body alone, or that they are too flat
    // for.
    try {
        if (somebody) session_->run_in_turn(view, logits_.data());
    } catch (const Unreadable&) {
        somebody = false;
    }
    answer(0, somebody ? logits_.data() : nullptr,
           times_[static_cast<std::size_t>((first_ + count_ - 1) % most_frames_)], count_);
}

}  // namespace asma::edge
