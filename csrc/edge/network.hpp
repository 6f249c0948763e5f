// A model ready to run: weights packed as the kernels read them, shared by sessions.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/temporal_conv_plan.hpp"
#include "edge/int8.hpp"
#include "edge/model.hpp"

namespace asma::edge {

using cpu::ConvWay;

// Of longer clips no other way is chosen, and no workspace is larger: a block of frames is far shorter.
inline constexpr std::int64_t telling_frames = 1 << 13;

// A temporal convolution whose weights lie packed for every way in which some length is convolved.
class PackedConv {
public:
    PackedConv(const ConvLayer& layer, std::int64_t joints, std::int64_t most_frames);

    cpu::TemporalConvSizes sizes(std::int64_t rows, std::int64_t frames) const;
    cpu::FrameMap map() const { return {layer_.stride, 1, -layer_.left, 1}; }
    const float* weights(ConvWay way) const { return packed_[static_cast<std::size_t>(way)].data(); }
    // (taps, columns) where each channel is a group, else null.
    const float* by_tap() const { return by_tap_.empty() ? nullptr : by_tap_.data(); }
    const cpu::KernelTable<float>& kernels() const { return *kernels_; }
    const ConvLayer& layer() const { return layer_; }

private:
    ConvLayer layer_;  // its weights are given up once they are packed
    std::int64_t joints_;
    const cpu::KernelTable<float>* kernels_;  // for which they are packed
    std::vector<float> packed_[3], by_tap_;
};

// A graph convolution whose edges have weights of their own: see cpu/edge_conv.hpp.
struct EdgeWeights {
    std::vector<std::int32_t> starts, others;
    std::vector<float> weight, bias;
};

struct PackedBlock {
    GraphLayer graph;   // likewise
    EdgeWeights edges;  // of the first block, where that is less work; else empty
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
    const std::vector<PackedBlock>& blocks() const { return blocks_; }  // none of an int8 model
    const Int8Network* int8() const { return int8_.get(); }             // null of an fp32 model
    std::int64_t most_frames() const { return most_frames_; }
    std::int64_t features() const { return features_; }
    std::int64_t classes() const { return static_cast<std::int64_t>(model_.classes.size()); }

private:
    Model model_;  // without the blocks' weights
    std::int64_t most_frames_, features_;
    std::vector<PackedBlock> blocks_;
    std::unique_ptr<const Int8Network> int8_;
};

}  // namespace asma::edge
