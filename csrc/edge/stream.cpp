#include "edge/stream.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/scratch.hpp"

namespace asma::edge {
namespace {

constexpr double never = -std::numeric_limits<double>::infinity();
constexpr std::int64_t largest_ring = std::int64_t{1} << 28;  // numbers
constexpr std::int64_t longest_window = 1'000'000;            // frames
constexpr double instant = 1e-6;                              // seconds that times may be wrong by

std::string told(double number) {
    std::string text = std::to_string(number);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
}

void check_range(const char* name, double value, double least, double most, bool open = false) {
    if (value >= least && (open ? value < most : value <= most)) return;
    throw Error(std::string(name) + " must be from " + told(least) + " to " + (open ? "below " : "") + told(most) +
                ", got " + told(value));
}

// Of a full window.
std::int64_t frames_of(const StreamSettings& settings) {
    return static_cast<std::int64_t>(std::ceil(settings.seconds * settings.max_rate));
}

StreamSettings checked(StreamSettings settings, const Session& session) {
    if (!session.network().model().recipe)
        throw Error(
            "the model tells of no preprocessing: its clips are preprocessed already, a stream's frames are not");
    const Recipe& recipe = *session.network().model().recipe;
    if (settings.least_seconds < 0) settings.least_seconds = settings.seconds;
    if (settings.bodies == 0) settings.bodies = recipe.bodies ? recipe.bodies : session.most_rows();
    const std::int64_t read = recipe.bodies ? recipe.bodies : session.most_rows();
    check_range("seconds", settings.seconds, 0.01, 3600);
    check_range("least_seconds", settings.least_seconds, 0, settings.seconds);
    check_range("hop", static_cast<double>(settings.hop), 1, 1e6);
    check_range("bodies", static_cast<double>(settings.bodies), 1, static_cast<double>(read));
    check_range("max_rate", settings.max_rate, 0.01, 1e6);
    check_range("rate", settings.rate, 0.01, 1e6);
    check_range("gap", settings.gap, 0, 3600);
    check_range("smoothing", settings.decision.smoothing, 0, 1, true);
    check_range("unknown_below", settings.decision.unknown_below, 0, 1);
    check_range("hysteresis", settings.decision.hysteresis, 0, 1);
    if (settings.seconds * settings.max_rate > static_cast<double>(longest_window))
        throw Error("a window must have at most " + std::to_string(longest_window) + " frames, got " +
                    told(settings.seconds) + " seconds of " + told(settings.max_rate));
    if (recipe.frames == 0 && frames_of(settings) > session.network().most_frames())
        throw Error("the network reads every frame of a window, and the session was made for " +
                    std::to_string(session.network().most_frames()) + ", got " + told(settings.seconds) +
                    " seconds of max_rate " + told(settings.max_rate) + "; ask for more with max_frames");
    return settings;
}

}  // namespace

Decision::Decision(const DecisionSettings& settings, std::int64_t classes)
    : settings_(settings), probabilities_(static_cast<std::size_t>(classes)) {}

void Decision::reset() {
    std::fill(probabilities_.begin(), probabilities_.end(), 0.0F);
    named_ = -1, fresh_ = true;
}

void Decision::take(const float* logits) {
    const std::size_t classes = probabilities_.size();
    // Numbers that are finite but huge overflow in the network: nothing can be said.
    if (!logits || !std::all_of(logits, logits + classes, [](float one) { return std::isfinite(one); })) return reset();
    const float largest = *std::max_element(logits, logits + classes);
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(logits[k] - largest));
    const double before = fresh_ ? 0 : settings_.smoothing;
    for (std::size_t k = 0; k < classes; ++k) {
        const double now = std::exp(static_cast<double>(logits[k] - largest)) / sum;
        probabilities_[k] = static_cast<float>(before * static_cast<double>(probabilities_[k]) + (1 - before) * now);
    }
    fresh_ = false;
    const auto likelihood = [&](std::int64_t k) {
        return static_cast<double>(probabilities_[static_cast<std::size_t>(k)]);
    };
    const std::int64_t best = std::max_element(probabilities_.begin(), probabilities_.end()) - probabilities_.begin();
    if (named_ >= 0 && likelihood(named_) < settings_.unknown_below - settings_.hysteresis) named_ = -1;
    const bool likelier = named_ < 0 || likelihood(best) > likelihood(named_) + settings_.hysteresis;
    if (likelier && likelihood(best) >= settings_.unknown_below) named_ = best;
}

WindowStream::WindowStream(std::shared_ptr<Session> session, const StreamSettings& settings)
    : session_(std::move(session)),
      settings_(checked(settings, *session_)),
      decision_(settings.decision, session_->network().classes()),
      body_(model().joints * model().channels),
      frame_(settings_.bodies * body_),
      most_frames_(frames_of(settings_) + 1) {
    if (checked_product({most_frames_, frame_}) > largest_ring)
        throw Error("the window would need " + std::to_string(2 * most_frames_ * frame_ / (std::int64_t{1} << 18)) +
                    " MiB; ask for fewer seconds, bodies or frames a second");
    const auto size = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    ring_.resize(size(most_frames_ * frame_)), window_.resize(ring_.size());
    times_.resize(size(most_frames_));
    logits_.resize(size(session_->network().classes()));
    slot_ids_.resize(size(settings_.bodies));
    slot_seen_.assign(size(settings_.bodies), never);
}

void WindowStream::reset() {
    const Session::Turn turn(busy_);
    restart();
}

void WindowStream::restart() {
    count_ = since_ = frames_ = 0, known_ = false;
    std::fill(slot_seen_.begin(), slot_seen_.end(), never);
    decision_.reset();
}

bool WindowStream::push(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids,
                        StreamAnswer& told_now) {
    if (bodies < 0 || bodies > settings_.bodies)
        throw Error("a frame must have at most " + std::to_string(settings_.bodies) +
                    " bodies, as the stream was made for, got " + std::to_string(bodies));
    const Session::Turn turn(busy_);
    for (std::int64_t m = 0; ids && m < bodies; ++m)
        if (std::count(ids, ids + bodies, ids[m]) > 1)
            throw Error("the ids of a frame must differ, got " + std::to_string(ids[m]) + " twice");
    const bool other_ids = bodies > 0 && known_ && tracked_ != (ids != nullptr);  // nobody has no id
    if (other_ids || (frames_ > 0 && timed_ != (time != nullptr)))
        throw Error("the frames of a stream must all have a time, or none of them; likewise ids");
    const double now = time ? *time : static_cast<double>(frames_) / settings_.rate;
    if (!std::isfinite(now)) throw Error("a frame's time must be a number of seconds, got one that is not finite");
    if (frames_ > 0 && now <= time_)
        throw Error("frames must come in order of time, got " + told(now) + " after " + told(time_) + " seconds");
    const bool anew = frames_ > 0 && now - time_ > settings_.gap + instant;
    std::int64_t kept = anew ? 0 : count_, first = first_;
    for (; kept > 0 && times_[static_cast<std::size_t>(first)] <= now - settings_.seconds + instant; --kept)
        first = (first + 1) % most_frames_;
    if (kept == most_frames_)
        throw Error("frames must come at most " + told(settings_.max_rate) + " a second, got " + std::to_string(kept) +
                    " within " + told(settings_.seconds) + " seconds");

    // Of the session too, before anything is changed.
    const Session::Turn sessions(session_->busy());
    if (anew) restart(), ++restarts_;
    first_ = first, count_ = kept, time_ = now, timed_ = time != nullptr;
    if (bodies > 0) known_ = true, tracked_ = ids != nullptr;
    if (frames_++ == 0) began_ = now;
    take_bodies(frame, bodies, ids);
    times_[static_cast<std::size_t>((first_ + count_) % most_frames_)] = now;
    ++count_;
    if (++since_ < settings_.hop || now - began_ < settings_.least_seconds - instant) return false;
    since_ = 0;
    answer();
    told_now = {decision_.named(), decision_.probabilities(), logits_, time_, count_};
    return true;
}

void WindowStream::take_bodies(const float* frame, std::int64_t bodies, const std::int64_t* ids) {
    float* const to = frame_at(count_);
    std::fill(to, to + frame_, 0.0F);
    for (std::int64_t m = 0; m < bodies; ++m) {
        const float* const body = frame + m * body_;
        if (std::all_of(body, body + body_, [](float one) { return one == 0; })) continue;
        if (!std::all_of(body, body + body_, [](float one) { return std::isfinite(one); })) {
            ++missing_;
            continue;
        }
        const std::int64_t slot = ids ? slot_for(ids[m], ids, bodies) : m;
        std::copy(body, body + body_, to + slot * body_);
        slot_seen_[static_cast<std::size_t>(slot)] = time_;
    }
}

// The slot of a track; a new one gets the slot that was seen the longest ago, of none of the frame's tracks.
std::int64_t WindowStream::slot_for(std::int64_t id, const std::int64_t* ids, std::int64_t count) {
    std::int64_t found = -1;
    for (std::int64_t slot = 0; slot < settings_.bodies; ++slot) {
        const double seen = slot_seen_[static_cast<std::size_t>(slot)];
        const std::int64_t of = slot_ids_[static_cast<std::size_t>(slot)];
        if (seen != never && of == id) return slot;
        if (seen != never && std::find(ids, ids + count, of) != ids + count) continue;
        if (found < 0 || seen < slot_seen_[static_cast<std::size_t>(found)]) found = slot;
    }
    slot_ids_[static_cast<std::size_t>(found)] = id;
    for (std::int64_t t = 0; t < count_; ++t) {
        float* const former = frame_at(t) + found * body_;
        std::fill(former, former + body_, 0.0F);
    }
    return found;
}

void WindowStream::copy_window(float* to) const {
    for (std::int64_t m = 0; m < settings_.bodies; ++m)
        for (std::int64_t t = 0; t < count_; ++t, to += body_) {
            const float* const from = frame_at(t) + m * body_;
            std::copy(from, from + body_, to);
        }
}

std::vector<float> WindowStream::window(std::int64_t& frames) const {
    const Session::Turn turn(busy_);
    frames = count_;
    std::vector<float> numbers(static_cast<std::size_t>(count_ * frame_));
    copy_window(numbers.data());
    return numbers;
}

void WindowStream::answer() {
    copy_window(window_.data());
    ClipView view;
    view.data = window_.data();
    view.bodies = settings_.bodies, view.frames = count_, view.joints = model().joints;
    view.channels = model().channels, view.channel_stride = 1, view.joint_stride = view.channels;
    view.frame_stride = body_, view.body_stride = count_ * body_;
    bool somebody = false;
    for (std::int64_t m = 0; m < view.bodies && !somebody; ++m)
        for (std::int64_t t = 0; t < count_ && !somebody; ++t) somebody = view.present(m, t);
    // Bodies may be there and not be read: by a recipe that looks at the first body alone, or that they are too flat
    // for.
    if (somebody) somebody = session_->run_window(view, logits_.data());
    if (!somebody) std::fill(logits_.begin(), logits_.end(), 0.0F);
    decision_.take(somebody ? logits_.data() : nullptr);
}

}  // namespace asma::edge
