// A causal network frame by frame: what it says of all frames since the stream began, every few frames.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "edge/frame_engine.hpp"
#include "edge/stream.hpp"

namespace asma::edge {

struct ContinualSettings : StreamSettings {
    std::int64_t streams = 1;  // scenes that are pushed at once
    std::int64_t pool = 0;     // outputs of the last block that are averaged; 0: as many as a training clip has
    bool spread = false;       // the same work every frame, answers up to period − 1 frames later
};

// Frames are read at the network's rate, linearly between the two that were recorded before and after.
class ContinualStream : public Stream {
public:
    // Throws Error where a setting is out of range, the session takes prepared clips only, its recipe needs more than a
    // frame at a time, no rate is told, or the network is not causal. The session is needed no longer.
    ContinualStream(const Session& session, const ContinualSettings& settings);

    std::int64_t period() const { return engine_.period(); }  // read frames from one answer to the next
    std::int64_t delay() const { return engine_.delay(); }    // read frames by which an answer comes later
    std::int64_t pool() const { return engine_.pool(); }

private:
    ContinualStream(const ContinualSettings& checked, const Session& session);
    void admit(double, bool) const override {}
    bool take(double time) override;
    void restart() override;
    void read_frame(double weight);

    FrameEngine engine_;
    double frame_rate_;
    std::vector<float> recorded_, read_;      // (2, slots, V, C): before, now; a frame at the network's rate
    std::vector<std::uint8_t> forgotten_;     // slots that went to another track since the last frame that was read
    std::vector<Heading> headings_;           // of the slots
    std::int64_t now_ = 0, frames_read_ = 0;  // of recorded_, which is now; since the stream began
    bool begun_ = false;
    double began_ = 0, before_ = 0;
};

}  // namespace asma::edge
