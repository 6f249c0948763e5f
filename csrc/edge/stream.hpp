// Frames one by one, as a camera gives them: what all streams share. Times, track ids, missing bodies, decisions.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
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
    std::int64_t bodies = 0;  // slots; 0: as many as the network reads, or the session takes
    double rate = -1;         // frames a second; negative: the model's
    double gap = 0.5;         // seconds without a frame after which the stream begins anew
    DecisionSettings decision;
};

struct StreamAnswer {
    std::int64_t named = -1;                   // a class, or −1: unknown, or nobody is there
    std::vector<float> probabilities, logits;  // smoothed, and of this moment alone; zeros where nobody is there
    double time = 0;                           // of the last frame that it is about
    std::int64_t frames = 0;                   // that it is about
};

class Stream {
public:
    virtual ~Stream() = default;

    // A frame (streams, bodies, V, C) at a time in seconds (null: 1 / rate after the one before), its bodies in slots
    // by their rows, or by track ids (streams, bodies) (null: none). Whether there are answers (streams), which
    // `receive` gets to copy, before another thread's call may change them. Throws Error, with nothing changed, where
    // the frame is not later than the one before, has more bodies than there are slots, or does not fit the stream
    // otherwise, or where another thread's call is at work.
    template <class Receive>
    bool push(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids, Receive&& receive) {
        const Session::Turn turn(busy_);
        if (!advance(frame, bodies, time, ids)) return false;
        receive(static_cast<const StreamAnswer*>(answers_.data()));
        return true;
    }
    // As if no frame had come.
    void reset();

    std::int64_t missing() const { return missing_; }    // bodies of frames that had a number that is not finite
    std::int64_t restarts() const { return restarts_; }  // after a gap
    const Model& model() const { return network_->model(); }
    std::int64_t slots() const { return slots_; }      // of a stream
    std::int64_t streams() const { return streams_; }  // scenes that are pushed at once, each with its own answers

protected:
    // `beside`: of the session whose memory the stream works in, if any.
    Stream(std::shared_ptr<const Network> network, const StreamSettings& settings, std::int64_t streams,
           std::atomic<bool>* beside);

    // Throws Error where a frame at this time, perhaps after a gap, is one too many; changes nothing.
    virtual void admit(double time, bool anew) const = 0;
    // The frame is in frame_, slot by slot, empty where nobody is; slots in fresh_ went to another track. Whether there
    // are answers.
    virtual bool take(double time) = 0;
    virtual void restart();
    // Names a class by logits (null: nobody is there), and writes the answer.
    void answer(std::int64_t stream, const float* logits, double time, std::int64_t frames);

    std::shared_ptr<const Network> network_;
    std::int64_t streams_, slots_, body_;  // numbers of a body
    std::vector<float> frame_;             // (streams, slots, V, C)
    std::vector<std::uint8_t> fresh_;
    mutable std::atomic<bool> busy_{false};

private:
    bool advance(const float* frame, std::int64_t bodies, const double* time, const std::int64_t* ids);
    void take_bodies(const float* frame, std::int64_t bodies, const std::int64_t* ids);
    std::int64_t slot_for(std::int64_t stream, std::int64_t id, const std::int64_t* ids, std::int64_t count);

    std::vector<Decision> decisions_;
    std::vector<StreamAnswer> answers_;
    std::atomic<bool>* beside_;
    double rate_, gap_;
    std::vector<std::int64_t> slot_ids_;
    std::vector<double> slot_seen_;  // −∞: it is free
    std::int64_t frames_ = 0;        // since the stream began
    double time_ = 0;
    bool timed_ = false, tracked_ = false, known_ = false;  // come its frames with times, with ids; known: the latter
    std::atomic<std::int64_t> missing_{0}, restarts_{0};
};

// ---- of settings ----

inline constexpr double instant = 1e-6;  // seconds that times may be wrong by

std::string told(double number);
void check_range(const char* name, double value, double least, double most, bool open = false);
// Throws Error where the model tells of no preprocessing, or a setting is out of range; `bodies` becomes their number.
StreamSettings checked_stream(StreamSettings settings, const Session& session);

}  // namespace asma::edge
