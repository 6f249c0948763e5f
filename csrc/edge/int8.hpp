// A network in int8, ready to run: weights packed, kernels chosen, the memory of a run measured.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/int8_block.hpp"
#include "edge/model.hpp"

namespace asma::edge {

class Int8Network {
public:
    // Takes the model's blocks.
    explicit Int8Network(Model& model);

    const cpu::Int8Kernels& kernels() const { return *kernels_; }
    std::int64_t blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
    std::int64_t frames(std::int64_t block, std::int64_t source) const;
    // Bytes of the largest map, and of a thread's workspace, of clips of so many frames.
    std::int64_t map_bytes(std::int64_t rows, std::int64_t frames) const;
    std::int64_t workspace_bytes(std::int64_t frames) const;
    // All of them but the maps; the workspace is `memory`.
    cpu::Int8BlockParams params(std::int64_t block, std::int64_t frames, std::uint8_t* memory) const;
    // scale and shift of the input, (V, C padded).
    const float* input_scale() const { return input_scale_.data(); }
    const float* input_shift() const { return input_shift_.data(); }
    // The mean of each channel, of a row of the last map: features. `memory` is a workspace.
    void average(const std::uint8_t* map, std::int64_t frames, std::uint8_t* memory, float* features) const;

private:
    struct Layer {
        std::vector<std::int8_t> packed;
        std::vector<std::int32_t> bias;
        std::vector<float> scale;
        cpu::Int8Layer view;
    };
    struct PackedBlock {
        Layer graph, convs[2], shortcut;
        std::int64_t parts, conv_count;
        Residual residual;
        std::vector<float> residual_step, first_values;
        std::vector<std::int32_t> entry_starts, entry_sources;
        std::vector<std::int16_t> entry_values, gather_scale, gather_zero;  // by target and part
    };

    static Layer pack(const Int8Numbers& numbers, std::int64_t channels, std::int64_t columns, std::int64_t taps,
                      std::int64_t column_stride, std::int64_t channel_stride, std::int64_t tap_stride,
                      std::int64_t joints, bool twice);
    static Layer pack_conv(const ConvLayer& conv);
    static void pack_gather(const GraphLayer& graph, std::int64_t joints, PackedBlock& packed);
    std::int64_t lay_out(const PackedBlock& block, std::int64_t frames, std::uint8_t* memory,
                         cpu::Int8BlockParams& p) const;

    std::int64_t joints_, channels_, features_;
    std::vector<float> input_scale_, input_shift_, features_scale_;
    const cpu::Int8Kernels* kernels_;
    std::vector<PackedBlock> blocks_;
};

}  // namespace asma::edge
