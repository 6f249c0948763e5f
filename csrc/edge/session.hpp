// A session runs clips through a network, in memory that it took at once (preparing a recording takes some of its own).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "edge/network.hpp"
#include "edge/recording.hpp"

namespace asma::edge {

// Bodies that a session must take at once for so many clips of so many bodies, or of as many as the model's recipe
// makes, if that is more. Throws Error.
std::int64_t rows_of(const Network& network, std::int64_t clips, std::int64_t bodies);

class Session {
public:
    // `most_rows`: see rows_of. Throws Error where the working memory would be beyond any machine that this is for.
    Session(std::shared_ptr<const Network> network, std::int64_t most_rows, int threads);

    const Network& network() const { return *network_; }
    const std::shared_ptr<const Network>& shared_network() const { return network_; }
    std::int64_t most_rows() const { return most_rows_; }
    // Bodies of frames that held a number that is not finite, and were taken for missing, since the session began.
    std::int64_t missing() const { return missing_; }

    // clips (N, M, T, V, C) dense → logits (N, classes). Throws Error where the clip is too large, or the session is at
    // work in another thread.
    void run(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames, float* logits);
    // One recording, prepared by the model's recipe → logits (classes). Throws Error likewise; Unreadable where the
    // recipe finds nothing in it to read.
    void run_recording(const ClipView& recording, float* logits);
    // The same for whoever holds the session's turn.
    void run_in_turn(const ClipView& recording, float* logits);
    std::atomic<bool>& busy() { return busy_; }

    // One call at a time: throws Error where another is at work.
    class Turn {
    public:
        explicit Turn(std::atomic<bool>& busy);
        ~Turn() { busy_.store(false, std::memory_order_release); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

    private:
        std::atomic<bool>& busy_;
    };

private:
    void run_prepared(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames, float* logits);

    void forward(const float* clips, std::int64_t rows, std::int64_t frames, float* features);
    void forward_int8(const Int8Network& int8, const float* clips, std::int64_t rows, std::int64_t frames,
                      float* features);
    void convolve_graph(const PackedBlock& block, bool first, std::int64_t rows, std::int64_t frames, const float* x,
                        float* out);
    void convolve(const PackedConv& conv, std::int64_t rows, std::int64_t frames, const float* x, const float* residual,
                  bool relu, float* out);
    const float* empty_body(std::int64_t frames);
    bool is_present(const float* body, std::int64_t frames);
    void take_body(const float* body, std::int64_t frames, float* to) const;
    template <class Body> void share_out(std::int64_t items, Body&& body);

    std::shared_ptr<const Network> network_;
    std::int64_t most_rows_;
    int threads_;
    std::int64_t missing_ = 0;
    std::atomic<bool> busy_{false};
    // One arena: the rows' clips, four maps (of an int8 network two, of bytes), every thread's workspace, features,
    // those of an empty body by length.
    std::vector<float> arena_;
    std::vector<std::int32_t> lists_;
    std::vector<std::uint8_t> known_empty_;  // lengths
    std::vector<std::uint8_t> present_;      // bodies of the call
    float *clips_, *maps_[4], *features_, *pooled_, *empty_;
    std::int64_t workspace_ = 0, lists_a_thread_ = 0;
    float* workspaces_;
};

}  // namespace asma::edge
