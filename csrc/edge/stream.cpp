#include "edge/stream.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "edge/pooling.hpp"

namespace asma::edge {
namespace {

constexpr double never = -std::numeric_limits<double>::infinity();

}  // namespace

std::string told(double number) {
    std::string text = std::to_string(number);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
}

void check_range(const char* name, double value, double least, double most, bool open) {
    if (value >= least && (open ? value < most : value <= most)) return;
    throw Error(std::string(name) + " must be from " + told(least) + " to " + (open ? "below " : "") + told(most) +
                ", got " + told(value));
}

StreamSettings checked_stream(StreamSettings settings, const Session& session) {
    if (!session.network().model().recipe)
        throw Error(
            "the model tells of no preprocessing: its clips are preprocessed already, a stream's frames are not");
    const std::int64_t told_bodies = session.network().model().recipe->bodies;
    const std::int64_t read = told_bodies ? told_bodies : session.most_rows();
    if (settings.bodies == 0) settings.bodies = read;
    check_range("bodies", static_cast<double>(settings.bodies), 1, static_cast<double>(read));
    check_range("rate", settings.rate, 0.01, 1e6);
    check_range("gap", settings.gap, 0, 3600);
    check_range("smoothing", settings.decision.smoothing, 0, 1, true);
    check_range("unknown_below", settings.decision.unknown_below, 0, 1);
    check_range("hysteresis", settings.decision.hysteresis, 0, 1);
    return settings;
}

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
    const Softmax softmax(logits, static_cast<std::int64_t>(classes));
    const double before = fresh_ ? 0 : settings_.smoothing;
    for (std::size_t k = 0; k < classes; ++k) {
        const double kept = before * static_cast<double>(probabilities_[k]);
        probabilities_[k] = static_cast<float>(kept + (1 - before) * softmax(logits[k]));
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

Stream::Stream(std::shared_ptr<const Network> network, const StreamSettings& settings, std::int64_t streams,
               std::atomic<bool>* beside)
    : network_(std::move(network)),
      streams_(streams),
      slots_(settings.bodies),
      body_(model().joints * model().channels),
      frame_(static_cast<std::size_t>(streams * slots_ * body_)),
      fresh_(static_cast<std::size_t>(streams * slots_)),
      decisions_(static_cast<std::size_t>(streams), Decision(settings.decision, network_->classes())),
      answers_(decisions_.size()),
      beside_(beside),
      rate_(settings.rate),
      gap_(settings.gap),
      slot_ids_(fresh_.size()),
      slot_seen_(fresh_.size(), never) {
    for (StreamAnswer& answer : answers_) {
        answer.probabilities.resize(static_cast<std::size_t>(network_->classes()));
        answer.logits.resize(answer.probabilities.size());
    }
}

void Stream::reset() {
    const Session::Turn turn(busy_);
    restart();
}

void Stream::restart() {
    frames_ = 0, known_ = false;
    std::fill(slot_seen_.begin(), slot_seen_.end(), never);
    for (Decision& decision : decisions_) decision.reset();
}

bool Stream::advance(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids) {
    if (bodies < 0 || bodies > slots_)
        throw Error("a frame must have at most " + std::to_string(slots_) +
                    " bodies, as the stream was made for, got " + std::to_string(bodies));
    for (std::int64_t m = 0; ids && m < streams_ * bodies; ++m) {
        const std::int64_t* const of_stream = ids + m / bodies * bodies;
        if (std::count(of_stream, of_stream + bodies, ids[m]) > 1)
            throw Error("the ids of a frame must differ, got " + std::to_string(ids[m]) + " twice");
    }
    const bool other_ids = bodies > 0 && known_ && tracked_ != (ids != nullptr);  // nobody has no id
    if (other_ids || (frames_ > 0 && timed_ != (time != nullptr)))
        throw Error("the frames of a stream must all have a time, or none of them; likewise ids");
    const double now = time ? *time : static_cast<double>(frames_) / rate_;
    if (!std::isfinite(now)) throw Error("a frame's time must be a number of seconds, got one that is not finite");
    if (frames_ > 0 && now <= time_)
        throw Error("frames must come in order of time, got " + told(now) + " after " + told(time_) + " seconds");
    const bool anew = frames_ > 0 && now - time_ > gap_ + instant;
    admit(now, anew);

    // Of the session too, before anything is changed.
    std::optional<Session::Turn> sessions;
    if (beside_) sessions.emplace(*beside_);
    if (anew) restart(), ++restarts_;
    time_ = now, timed_ = time != nullptr, ++frames_;
    if (bodies > 0) known_ = true, tracked_ = ids != nullptr;
    take_bodies(frame, bodies, ids);
    return take(now);
}

void Stream::take_bodies(const float* frame, std::int64_t bodies, const std::int64_t* ids) {
    std::fill(frame_.begin(), frame_.end(), 0.0F);
    std::fill(fresh_.begin(), fresh_.end(), std::uint8_t{0});
    for (std::int64_t m = 0; m < streams_ * bodies; ++m) {
        const float* const body = frame + m * body_;
        if (std::all_of(body, body + body_, [](float one) { return one == 0; })) continue;
        if (!std::all_of(body, body + body_, [](float one) { return std::isfinite(one); })) {
            ++missing_;
            continue;
        }
        const std::int64_t stream = m / bodies;
        const std::int64_t slot =
            ids ? slot_for(stream, ids[m], ids + stream * bodies, bodies) : stream * slots_ + m % bodies;
        std::copy(body, body + body_, frame_.begin() + slot * body_);
        slot_seen_[static_cast<std::size_t>(slot)] = time_;
    }
}

// The slot of a track; a new one gets the slot that was seen the longest ago, of none of the frame's tracks.
std::int64_t Stream::slot_for(std::int64_t stream, std::int64_t id, const std::int64_t* ids, std::int64_t count) {
    std::int64_t found = -1;
    for (std::int64_t slot = stream * slots_; slot < (stream + 1) * slots_; ++slot) {
        const double seen = slot_seen_[static_cast<std::size_t>(slot)];
        const std::int64_t of = slot_ids_[static_cast<std::size_t>(slot)];
        if (seen != never && of == id) return slot;
        if (seen != never && std::find(ids, ids + count, of) != ids + count) continue;
        if (found < 0 || seen < slot_seen_[static_cast<std::size_t>(found)]) found = slot;
    }
    slot_ids_[static_cast<std::size_t>(found)] = id;
    fresh_[static_cast<std::size_t>(found)] = slot_seen_[static_cast<std::size_t>(found)] != never;
    return found;
}

void Stream::answer(std::int64_t stream, const float* logits, double time, std::int64_t frames) {
    Decision& decision = decisions_[static_cast<std::size_t>(stream)];
    StreamAnswer& told = answers_[static_cast<std::size_t>(stream)];
    decision.take(logits);
    told.named = decision.named(), told.time = time, told.frames = frames;
    told.probabilities = decision.probabilities();
    if (logits)
        std::copy(logits, logits + told.logits.size(), told.logits.begin());
    else
        std::fill(told.logits.begin(), told.logits.end(), 0.0F);
}

}  // namespace asma::edge
