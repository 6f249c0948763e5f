// A model ready to run: weights packed as the kernels read them, shared by sessions; and a session, which runs clips in
// memory that it took at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/temporal_conv_plan.hpp"
#include "edge/model.hpp"
#include "edge/recording.hpp"

namespace asma::edge {

using cpu::ConvWay;

// A temporal convolution whose weights lie packed for every way in which some length is convolved.
class PackedConv {
public:
    PackedConv(const ConvLayer& layer, std::int64_t joints, std::int64_t most_frames);

    cpu::TemporalConvSizes sizes(std::int64_t rows, std::int64_t frames) const;
    cpu::FrameMap map() const { return {layer_.stride, 1, -layer_.left, 1}; }
    const float* weights(ConvWay way) const { return packed_[static_cast<std::size_t>(way)].data(); }
    const cpu::KernelTable<float>& kernels() const { return *kernels_; }
    const ConvLayer& layer() const { return layer_; }

private:
    ConvLayer layer_;  // its weights are given up once they are packed
    std::int64_t joints_;
    const cpu::KernelTable<float>* kernels_;  // for which they are packed
    std::vector<float> packed_[3];
};

struct PackedBlock {
    GraphLayer graph;  // likewise
    const cpu::KernelTable<float>* kernels;
    std::vector<float> packed_graph;
    std::vector<std::int32_t> entry_starts, entry_others;  // the adjacency's entries by target and part
    std::vector<float> entry_values;
    std::vector<PackedConv> convs;  // one, or two of a separable block
    Residual residual;
    std::vector<PackedConv> shortcut;  // one, where the residual is a convolution
};

class Network {
public:
    // For clips of at most `most_frames` frames; of more, where the model's recipe makes longer ones.
    Network(Model model, std::int64_t most_frames);

    const Model& model() const { return model_; }
    const std::vector<PackedBlock>& blocks() const { return blocks_; }
    std::int64_t most_frames() const { return most_frames_; }
    std::int64_t features() const { return features_; }
    std::int64_t classes() const { return static_cast<std::int64_t>(model_.classes.size()); }

private:
    Model model_;  // without the blocks' weights
    std::int64_t most_frames_, features_;
    std::vector<PackedBlock> blocks_;
};

// Bodies that a session must take at once for so many clips of so many bodies, or of as many as the model's recipe
// makes, if that is more. Throws Error.
std::int64_t rows_of(const Network& network, std::int64_t clips, std::int64_t bodies);

class Session {
public:
    // `most_rows`: see rows_of. Throws Error where the working memory would be beyond any machine that this is for.
    Session(std::shared_ptr<const Network> network, std::int64_t most_rows, int threads);

    const Network& network() const { return *network_; }
    std::int64_t most_rows() const { return most_rows_; }
    int threads() const { return threads_; }
    // Bodies of frames that held a number that is not finite, and were taken for missing, since the session began.
    std::int64_t missing() const { return missing_; }

    // clips (N, M, T, V, C) dense → logits (N, classes). Throws Error where the clip is too large, or the session is at
    // work in another thread.
    void run(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames, float* logits);
    // One recording, prepared by the model's recipe → logits (classes). Throws Error likewise.
    void run_recording(const ClipView& recording, float* logits);

private:
    class Turn;

    void run_prepared(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames, float* logits);

    void forward(std::int64_t rows, std::int64_t frames, float* features);
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
    // One arena: the rows' clips, four maps, every thread's workspace, features, those of an empty body by length.
    std::vector<float> arena_;
    std::vector<std::int32_t> lists_;
    std::vector<std::uint8_t> known_empty_;  // lengths
    std::vector<std::uint8_t> present_;      // bodies of the call
    float *clips_, *maps_[4], *features_, *pooled_, *empty_;
    std::int64_t workspace_ = 0, lists_a_thread_ = 0;
    float* workspaces_;
};

}  // namespace asma::edge
