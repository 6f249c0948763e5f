// A network for inference as its file tells it: batch-norms and edge importance folded, every size checked.
//
// The file is a .safetensors container (8 bytes of header length, little-endian; a JSON header; the tensors). Its
// metadata holds one entry, "asma_fast.edge": JSON text that describes format, skeleton, preprocessing, classes and
// layers. Tensors are in C order; of precision fp32, float32:
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
//
// Of precision int8, numbers between layers are codes of 0..127, their steps and zero points part of scales and biases
// (cpu/int8_block.hpp has the arithmetic). No sum leaves int32, none of the gathering int16, or the file is refused.
// Input, head and classes are as of fp32; layers:
//
//   blocks.0.adjacency                  (K, V, V) F32  the first block gathers numbers, to codes of 0..16,383:
//   blocks.0.gather.zero                (K) I16        clamp(rint(zero + Σ adjacency · x))
//   blocks.B.adjacency                  (K, V, V) I16  the others gather codes:
//   blocks.B.gather.scale               (K, V) I16     clamp(zero + Σ adjacency · x · scale / 2^15), scale > 0
//   blocks.B.gather.zero                (K) I16        0..127
//   blocks.B.graph.weight, .bias        (K, O, C) I8, (V, O) I32; of the first block the bias is in steps of 128
//   blocks.B.conv.weight, .bias         (O, C / groups, taps) I8, (O) I32
//   blocks.B.….scale                    (O) F32        of graph and each convolution: a sum's step in steps of its code
//   blocks.B.residual.step              (O) F32        where there is a residual: its steps in steps of out
//   features.scale                      (D) F32        steps of the last block's codes
//
// Weights are −127..127. There are one group or as many as channels; pointwise and shortcut have one group and one tap,
// and the first block has no residual.
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

// A layer's numbers in int8.
struct Int8Numbers {
    std::vector<std::int8_t> weight;
    std::vector<float> scale;
    std::vector<std::int32_t> bias;
};

struct Int8Gather {
    std::vector<std::int16_t> adjacency, scale, zero;  // of the first block zero alone: its adjacency is float32
};

struct GraphLayer {
    std::int64_t parts, channels, columns;
    std::vector<float> adjacency, weight, bias;
    Int8Gather gather;  // in place of these, where the model is int8
    Int8Numbers int8;
};

struct ConvLayer {
    std::int64_t channels, columns, groups, taps, stride, left, right;
    std::vector<float> weight, bias;
    Int8Numbers int8;  // in place of these

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
    std::vector<float> residual_step;  // int8
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
    bool int8 = false;
    std::vector<float> features_scale;  // int8
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
