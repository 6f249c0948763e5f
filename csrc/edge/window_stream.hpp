// Every few frames, what a session says of the last seconds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "edge/stream.hpp"

namespace asma::edge {

struct WindowSettings : StreamSettings {
    double seconds = 2;         // of the window
    double least_seconds = -1;  // since the stream began, before it is answered; negative: `seconds`
    std::int64_t hop = 5;       // frames from one answer to the next
    double max_rate = 120;      // frames a second for which there is room
};

// The window's frames are those of the last `seconds`; a run of the session on them is all that an answer is.
class WindowStream : public Stream {
public:
    // Throws Error where a setting is out of range, or the session takes prepared clips only.
    WindowStream(std::shared_ptr<Session> session, const WindowSettings& settings);

    // (bodies, frames, V, C) of the window, and how many frames; throws Error where another call is at work.
    std::vector<float> window(std::int64_t& frames) const;

private:
    WindowStream(const WindowSettings& checked, std::shared_ptr<Session> session);
    void admit(double time, bool anew) const override;
    bool take(double time) override;
    void restart() override;

    // Frames of the ring that a frame at this time leaves in the window, and the first of them.
    std::int64_t kept(double time, std::int64_t& first) const;
    void copy_window(float* to) const;
    void run();
    float* frame_at(std::int64_t index) { return ring_.data() + (first_ + index) % most_frames_ * frame_size_; }
    const float* frame_at(std::int64_t index) const {
        return ring_.data() + (first_ + index) % most_frames_ * frame_size_;
    }

    std::shared_ptr<Session> session_;
    WindowSettings settings_;
    std::int64_t frame_size_, most_frames_;  // numbers of a frame of all slots; frames of the ring
    std::vector<float> ring_, window_, logits_;
    std::vector<double> times_;
    std::int64_t first_ = 0, count_ = 0, since_ = 0;  // of the ring; frames since the last answer
    bool begun_ = false;
    double began_ = 0;
};

}  // namespace asma::edge
