// Frames one by one, as a camera gives them: every few frames, what a session says of the last seconds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "edge/session.hpp"

namespace asma::edge {

// From the logits of one moment after the other to a class that does not flicker.
struct DecisionSettings {
    double smoothing = 0.5;      // share of the probabilities before in those of now, under 1
    double unknown_below = 0.3;  // a class that is less likely is not named
    double hysteresis = 0.1;     // by how much another must be likelier than the one that is named
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
    double seconds = 2;        // of the window
    double least_seconds = 2;  // since the stream began, before it is answered
    std::int64_t hop = 5;      // frames from one answer to the next
    std::int64_t bodies = 2;   // slots
    double rate = 30;          // frames a second, where no times are given
    double max_rate = 240;     // for so many there is room
    double gap = 0.5;          // seconds without a frame after which the stream begins anew
    DecisionSettings decision;
};

// The window's frames are those of the last `seconds`; a run of the session on them is all that an answer is.
class WindowStream {
public:
    // Throws Error where a setting is out of range, or the session takes prepared clips only.
    WindowStream(std::shared_ptr<Session> session, const StreamSettings& settings);

    // A frame (bodies, V, C) at a time in seconds (null: 1 / rate after the one before), its bodies in slots by their
    // rows, or by track ids (null: none). Whether there is an answer now. Throws Error, with nothing changed, where the
    // frame is not later than the one before, has more bodies than there are slots, or comes faster than max_rate.
    bool push(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids);
    // As if no frame had come.
    void reset();

    const Decision& decision() const { return decision_; }
    const std::vector<float>& logits() const { return logits_; }  // of the last answer; zeros where nobody was
    double time() const { return time_; }                         // of the last frame
    std::int64_t frames() const { return count_; }                // of the window
    std::int64_t missing() const { return missing_; }    // bodies of frames that had a number that is not finite
    std::int64_t restarts() const { return restarts_; }  // after a gap
    const StreamSettings& settings() const { return settings_; }
    const Model& model() const { return session_->network().model(); }
    // (bodies, frames, V, C)
    void copy_window(float* to) const;

private:
    void take_bodies(const float* frame, std::int64_t bodies, const std::int64_t* ids);
    std::int64_t slot_for(std::int64_t id, const std::int64_t* ids, std::int64_t count);
    void answer();
    float* frame_at(std::int64_t index) { return ring_.data() + (first_ + index) % most_frames_ * frame_; }
    const float* frame_at(std::int64_t index) const { return ring_.data() + (first_ + index) % most_frames_ * frame_; }

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
    bool timed_ = false, tracked_ = false;  // whether its frames come with times, with ids
    std::int64_t missing_ = 0, restarts_ = 0;
};

}  // namespace asma::edge
