// Frames one by one, as a camera gives them: every few frames, what a session says of the last seconds.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "edge/session.hpp"

namespace asma::edge {

// From the logits of one moment after the other to a class that does not flicker.
struct DecisionSettings {
    double smoothing = 0.5;      // share of the probabilities before in those of now, under 1
    double unknown_below = 0.3;  // a class that is less likely is not named anew
    double hysteresis = 0.1;     // the named one stays until another is likelier by more, or it is so much less likely
};

class Decision {
public:
    Decision(const DecisionSettings& settings, std::int64_t classes);

    // Logits (classes) of now; null where there is nobody.
    void take(const float* logits);
    void reset();

    const std::vector<float>& probabilities() const { return probabilities_; }  // smoothed; zeros where nobody is
    std::int64_t named() const { return named_; }                               // a class, or −1: unknown

private:
    DecisionSettings settings_;
    std::vector<float> probabilities_;
    std::int64_t named_ = -1;
    bool fresh_ = true;
};

struct StreamSettings {
    double seconds = 2;         // of the window
    double least_seconds = -1;  // since the stream began, before it is answered; negative: `seconds`
    std::int64_t hop = 5;       // frames from one answer to the next
    std::int64_t bodies = 0;    // slots; 0: as many as the network reads, or the session takes
    double rate = 30;           // frames a second, where no times are given
    double max_rate = 120;      // for so many there is room
    double gap = 0.5;           // seconds without a frame after which the stream begins anew
    DecisionSettings decision;
};

struct StreamAnswer {
    std::int64_t named = -1;                   // a class, or −1: unknown, or nobody is there
    std::vector<float> probabilities, logits;  // smoothed, and of this window alone; zeros where nobody is there
    double time = 0;                           // of the last frame
    std::int64_t frames = 0;                   // of the window
};

// The window's frames are those of the last `seconds`; a run of the session on them is all that an answer is.
class WindowStream {
public:
    // Throws Error where a setting is out of range, or the session takes prepared clips only.
    WindowStream(std::shared_ptr<Session> session, const StreamSettings& settings);

    // A frame (bodies, V, C) at a time in seconds (null: 1 / rate after the one before), its bodies in slots by their
    // rows, or by track ids (null: none). Whether there is an answer now. Throws Error, with nothing changed, where the
    // frame is not later than the one before, has more bodies than there are slots, or comes faster than max_rate, or
    // where the stream or its session is at work in another thread.
    bool push(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids,
              StreamAnswer& answer);
    // As if no frame had come.
    void reset();

    std::int64_t missing() const { return missing_; }    // bodies of frames that had a number that is not finite
    std::int64_t restarts() const { return restarts_; }  // after a gap
    const StreamSettings& settings() const { return settings_; }
    const Model& model() const { return session_->network().model(); }
    // (bodies, frames, V, C) of the window, and how many frames; throws Error where another call is at work.
    std::vector<float> window(std::int64_t& frames) const;

private:
    void take_bodies(const float* frame, std::int64_t bodies, const std::int64_t* ids);
    std::int64_t slot_for(std::int64_t id, const std::int64_t* ids, std::int64_t count);
    void copy_window(float* to) const;
    void answer();
    float* frame_at(std::int64_t index) { return ring_.data() + (first_ + index) % most_frames_ * frame_; }
    const float* frame_at(std::int64_t index) const { return ring_.data() + (first_ + index) % most_frames_ * frame_; }

    void restart();

    std::shared_ptr<Session> session_;
    StreamSettings settings_;
    Decision decision_;
    std::int64_t body_, frame_, most_frames_;  // numbers of a body and of a frame of all slots; frames of the ring
    std::vector<float> ring_, window_, logits_;
    std::vector<double> times_;
    std::vector<std::int64_t> slot_ids_;
    std::vector<double> slot_seen_;                   // −∞: it is free
    std::int64_t first_ = 0, count_ = 0, since_ = 0;  // of the ring; frames since the last answer
    std::int64_t frames_ = 0;                         // since the stream began
    double began_ = 0, time_ = 0;
    bool timed_ = false, tracked_ = false, known_ = false;  // come its frames with times, with ids; known: the latter
    std::atomic<std::int64_t> missing_{0}, restarts_{0};
    mutable std::atomic<bool> busy_{false};
};

}  // namespace asma::edge
