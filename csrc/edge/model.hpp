// A network for inference as its file tells it: batch-norms and edge importance folded, every size checked.
//
// The file is a .safetensors container (8 bytes of header length, little-endian; a JSON header; the tensors). Its
// metadata holds one entry, "asma_fast.edge": JSON text that describes format, skeleton, preprocessing, classes and
// layers. Tensors are float32, in C order:
//
//   input.scale, input.shift            (V, C)         read as scale · x + shift
//   blocks.B.adjacency                  (K, V, V)      [k, source, target]
//   blocks.B.graph.weight, .bias        (K, O, C), (V, O)
//   blocks.B.conv.weight, .bias         (O, C / groups, taps), (O)
//   blocks.B.pointwise.weight, .bias    where the block is separable
//   blocks.B.residual.weight, .bias     where the residual is a convolution
//   head.weight, head.bias              (classes, D), (classes)
//
// A block: h = relu(graph(x)); y = conv(h), of a separable block pointwise(relu(conv(h))); out = relu(y + residual).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/preprocess.hpp"

namespace asma::edge {

// What is wrong with a model file, or with what a session was given.
struct Error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

struct GraphLayer {
    std::int64_t parts, channels, columns;
    std::vector<float> adjacency, weight, bias;
};

struct ConvLayer {
    std::int64_t channels, columns, groups, taps, stride, left, right;
    std::vector<float> weight, bias;

    // Frames that come out, of at least one: left + right is taps − 1.
    std::int64_t frames(std::int64_t source) const { return (source - 1) / stride + 1; }
};

enum class Residual : std::uint8_t { none, identity, convolution };

struct Block {
    GraphLayer graph;
    ConvLayer conv;
    std::optional<ConvLayer> pointwise;
    Residual residual = Residual::none;
    std::optional<ConvLayer> shortcut;
};

// How recorded frames become a clip that the network reads.
struct Recipe {
    Preprocess rules;
    std::int64_t frames = 0;  // 0: as many as are valid
    std::int64_t bodies = 0;  // a recording's first, empty ones behind them; 0: as many as it has
    int dims = 3;
};

struct Model {
    std::int64_t joints = 0, channels = 0;
    bool present_bodies = false;  // average over these, not over all
    std::vector<float> input_scale, input_shift;
    std::vector<Block> blocks;
    std::vector<float> head_weight, head_bias;
    std::vector<std::string> classes;
    std::optional<Recipe> recipe;
    double rate = 0;          // frames a second of the clips that it reads; 0: the file tells of none
    std::string description;  // the JSON text

    std::int64_t features() const { return blocks.back().conv.columns; }
};

// Throws Error for anything but a whole, sound model file.
Model load_model(const std::string& path);

}  // namespace asma::edge
