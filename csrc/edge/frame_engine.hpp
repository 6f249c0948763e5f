// A causal network frame by frame: what it says of all frames so far, at the cost of the last one.
//
// Every temporal convolution keeps the frames that its taps reach in a ring. A frame is written twice, a ring apart, so
// that the taps of any moment lie one after the other. A block behind strides runs at its own rate, counted from the
// first frame. Work is a list of units (a layer, or some columns of it) that repeats every `period` frames, the product
// of the strides; spread, the list is cut into even parts, one a frame, and results come up to period − 1 frames later.
//
// A body that has not been seen for as long as the network looks back has no rings and no work: what they would hold is
// what they hold of a body that never was there, and that is computed once (Block::empty).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/frame_step.hpp"
#include "edge/network.hpp"

namespace asma::edge {

struct FrameSettings {
    std::int64_t streams = 1, bodies = 1;  // that run together, each with its own logits; bodies of each
    std::int64_t pool = 0;  // outputs of the last block that are averaged; 0: as many as a training clip has
    bool spread = false;
};

class FrameEngine {
public:
    // Throws Error where the network is not causal, or the working memory would be beyond any machine this is for.
    FrameEngine(std::shared_ptr<const Network> network, const FrameSettings& settings);
    FrameEngine(const FrameEngine&) = delete;
    FrameEngine& operator=(const FrameEngine&) = delete;
    // Throws Error where a temporal convolution looks ahead.
    static void check_causal(const Network& network);

    // The next prepared frame (streams·bodies, V, C), all zeros where a body is not there; a body that is `fresh`
    // (streams·bodies) never was there before. Whether there are logits now, of frame told_frame().
    bool push(const float* frame, const std::uint8_t* fresh);
    void reset();

    // Of a stream (classes); null where no body was there in the frames that the averaged outputs stand for.
    const float* logits(std::int64_t stream) const {
        if (!somebody_[static_cast<std::size_t>(stream)]) return nullptr;
        return logits_.data() + stream * network_->classes();
    }
    std::int64_t told_frame() const { return told_frame_; }
    std::int64_t period() const { return period_; }
    std::int64_t delay() const { return delay_; }
    std::int64_t pool() const { return pool_; }

private:
    struct Block {
        const PackedBlock* packed;
        std::int64_t taps, stride, width, out_width;
        std::int64_t every;   // input frames from one of its frames to the next
        std::int64_t settle;  // its frame from which on a body that never was there is always the same
        const float* x;       // (bodies, V, width)
        float *ring, *beside, *shortcut, *out, *bias, *empty;
        cpu::FrameGraphParams<float> graph;
        cpu::FrameConvParams<float> convs[2], side;
    };
    enum class Step : std::uint8_t { begin, graph, conv, pointwise, shortcut, tell };
    struct Unit {
        Step step;
        std::int64_t phase, block, begin, end;  // frame of the period that brings it; work items of the layer's kernel
        double cost;
    };
    // A frame on its way through the network.
    struct Record {
        std::int64_t frame;
        float* x;                         // (bodies, V, width), scaled and shifted
        std::vector<std::uint8_t> marks;  // of each body
    };

    void plan(bool spread);
    void lay_out();
    void learn_empty();
    void add_layer(Step step, std::int64_t phase, std::int64_t block, std::int64_t items, double cost);
    void run(const Unit& unit, const Record& record);
    void begin(const Record& record);
    void tell(const Record& record);
    bool head(const Record& record, std::int64_t stream);
    template <class Work> void for_runs(const Record& record, Work&& work) const;
    float* feature(std::int64_t body, std::int64_t output) {
        return features_ + (body * pool_ + output % pool_) * network_->features();
    }

    std::shared_ptr<const Network> network_;
    std::int64_t streams_, bodies_, joints_,  // bodies: of all streams
        pool_, period_ = 1, reach_ = 1, delay_ = 0, together_ = 1;
    std::vector<Block> blocks_;
    std::vector<Unit> units_;
    std::vector<std::size_t> ends_;  // of the units that are done after a frame of the period
    std::vector<Record> records_;    // of the period's frames
    std::vector<float> arena_;
    float *features_ = nullptr, *empty_features_ = nullptr, *gathered_ = nullptr, *packed_frame_ = nullptr;
    std::vector<float> logits_, mean_;
    std::vector<double> sums_;
    std::int64_t settle_ = 0;         // output from which on a body that never was there is always the same
    std::vector<std::int64_t> seen_;  // the last frame of each body
    std::vector<std::uint8_t> active_, somebody_;
    std::int64_t frame_ = 0, told_frame_ = 0;
    std::size_t done_ = 0;
    bool learning_ = false;
};

}  // namespace asma::edge
