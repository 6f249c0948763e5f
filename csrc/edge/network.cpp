#include "edge/network.hpp"

#include <algorithm>
#include <utility>

#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::edge {
namespace {

constexpr std::int64_t most_length = 1'000'000;
constexpr std::int64_t most_edge_weights = 1 << 17;  // of edges with weights of their own

std::vector<float> pack(const cpu::KernelTable<float>& kernels, ConvWay way, const float* weight,
                        const cpu::TemporalConvSizes& sizes, const cpu::ConvPlan& plan, std::int64_t column_stride,
                        std::int64_t channel_stride, std::int64_t tap_stride) {
    cpu::TemporalConvPackParams<float> p{};
    p.packed_group = cpu::packed_weights(sizes, plan);
    std::vector<float> packed(static_cast<std::size_t>(checked_product({sizes.groups, p.packed_group})));
    p.weight = weight, p.packed = packed.data(), p.sizes = sizes;
    p.group_stride = sizes.columns * column_stride;
    p.column_stride = column_stride, p.channel_stride = channel_stride, p.tap_stride = tap_stride;
    cpu::pack_kernel(kernels, way)(p, 0, sizes.groups * cpu::slabs(sizes.columns));
    return packed;
}

// Of the first block, whose input is read as scale · x + shift; empty where products of gathered channels are fewer, or
// the weights too many to stay in a cache.
EdgeWeights edge_weights(const GraphLayer& graph, const Model& model) {
    const std::int64_t joints = model.joints, channels = graph.channels, columns = graph.columns,
                       padded = cpu::packed_columns(columns);
    const auto entry = [&](std::int64_t k, std::int64_t source, std::int64_t target) {
        return static_cast<double>(graph.adjacency[static_cast<std::size_t>((k * joints + source) * joints + target)]);
    };
    EdgeWeights edges;
    for (std::int64_t target = 0; target < joints; ++target) {
        edges.starts.push_back(static_cast<std::int32_t>(edges.others.size()));
        for (std::int64_t source = 0; source < joints; ++source)
            for (std::int64_t k = 0; k < graph.parts; ++k)
                if (entry(k, source, target) != 0) {
                    edges.others.push_back(static_cast<std::int32_t>(source));
                    break;
                }
    }
    const auto count = static_cast<std::int64_t>(edges.others.size());
    edges.starts.push_back(static_cast<std::int32_t>(count));
    const std::int64_t gathered = joints * graph.parts * std::max<std::int64_t>(channels, cpu::joint_padding<float>);
    if (count * channels > gathered || count * channels > most_edge_weights / padded) return {};
    std::vector<double> sums(static_cast<std::size_t>(padded)), bias(static_cast<std::size_t>(padded));
    for (std::int64_t target = 0; target < joints; ++target) {
        std::copy_n(graph.bias.begin() + target * columns, columns, bias.begin());
        for (std::int32_t e = edges.starts[static_cast<std::size_t>(target)];
             e < edges.starts[static_cast<std::size_t>(target + 1)]; ++e) {
            const std::int64_t source = edges.others[static_cast<std::size_t>(e)];
            for (std::int64_t c = 0; c < channels; ++c) {
                std::fill(sums.begin(), sums.end(), 0.0);
                for (std::int64_t k = 0; k < graph.parts; ++k)
                    for (std::int64_t n = 0; n < columns; ++n)
                        sums[static_cast<std::size_t>(n)] +=
                            entry(k, source, target) *
                            static_cast<double>(
                                graph.weight[static_cast<std::size_t>((k * columns + n) * channels + c)]);
                const auto at = static_cast<std::size_t>(source * channels + c);
                for (std::int64_t n = 0; n < padded; ++n) {
                    const double sum = sums[static_cast<std::size_t>(n)];
                    edges.weight.push_back(static_cast<float>(sum * static_cast<double>(model.input_scale[at])));
                    bias[static_cast<std::size_t>(n)] += sum * static_cast<double>(model.input_shift[at]);
                }
            }
        }
        for (const double number : bias) edges.bias.push_back(static_cast<float>(number));
    }
    return edges;
}

}  // namespace

PackedConv::PackedConv(const ConvLayer& layer, std::int64_t joints, std::int64_t most_frames)
    : layer_(layer), joints_(joints), kernels_(&cpu::kernels<float>(layer.columns / layer.groups)) {
    for (std::int64_t frames = 1; frames <= std::min(most_frames, telling_frames); ++frames) {
        const cpu::TemporalConvSizes shape = sizes(1, frames);
        const cpu::ConvPlan plan = cpu::conv_plan(shape, map());
        std::vector<float>& packed = packed_[static_cast<std::size_t>(plan.way)];
        if (packed.empty())
            packed = pack(*kernels_, plan.way, layer_.weight.data(), shape, plan, shape.channels * layer_.taps,
                          layer_.taps, 1);
    }
    if (layer_.groups == layer_.channels && layer_.groups == layer_.columns)
        for (std::int64_t tap = 0; tap < layer_.taps; ++tap)
            for (std::int64_t n = 0; n < layer_.columns; ++n)
                by_tap_.push_back(layer_.weight[static_cast<std::size_t>(n * layer_.taps + tap)]);
    layer_.weight = {};
}

cpu::TemporalConvSizes PackedConv::sizes(std::int64_t rows, std::int64_t frames) const {
    cpu::TemporalConvSizes sizes{};
    sizes.rows = rows, sizes.joints = joints_, sizes.source_frames = frames, sizes.frames = layer_.frames(frames);
    sizes.groups = layer_.groups, sizes.taps = layer_.taps;
    sizes.channels = layer_.channels / layer_.groups, sizes.columns = layer_.columns / layer_.groups;
    return sizes;
}

Network::Network(Model model, std::int64_t most_frames) : model_(std::move(model)), most_frames_(most_frames) {
    if (most_frames < 1 || most_frames > most_length)
        throw Error("max_frames must be from 1 to " + std::to_string(most_length) + ", got " +
                    std::to_string(most_frames));
    if (model_.recipe) most_frames_ = most_frames = std::max(most_frames, model_.recipe->frames);
    features_ = model_.features();
    if (model_.int8) int8_ = std::make_unique<Int8Network>(model_);
    std::int64_t frames = most_frames;
    for (Block& block : model_.blocks) {
        PackedBlock& packed = blocks_.emplace_back();
        GraphLayer& graph = packed.graph = std::move(block.graph);
        cpu::TemporalConvSizes shape{};
        shape.groups = 1, shape.channels = graph.channels, shape.columns = graph.columns, shape.taps = graph.parts;
        cpu::ConvPlan plan;
        plan.matrices = graph.parts;
        packed.kernels = &cpu::kernels<float>(graph.columns);
        if (blocks_.size() == 1 && graph.channels <= cpu::joint_padding<float>)
            packed.edges = edge_weights(graph, model_);
        packed.packed_graph = pack(*packed.kernels, ConvWay::direct, graph.weight.data(), shape, plan, graph.channels,
                                   1, graph.columns * graph.channels);
        graph.weight = {};
        packed.residual = block.residual;
        packed.convs.emplace_back(block.conv, model_.joints, frames);
        if (block.shortcut) packed.shortcut.emplace_back(*block.shortcut, model_.joints, frames);
        frames = block.conv.frames(frames);
        if (block.pointwise) packed.convs.emplace_back(*block.pointwise, model_.joints, frames);
        const std::int64_t joints = model_.joints, parts = graph.parts;
        for (std::int64_t target = 0; target < joints; ++target)
            for (std::int64_t k = 0; k < parts; ++k) {
                packed.entry_starts.push_back(static_cast<std::int32_t>(packed.entry_others.size()));
                for (std::int64_t source = 0; source < joints; ++source) {
                    const float entry =
                        graph.adjacency[static_cast<std::size_t>((k * joints + source) * joints + target)];
                    if (entry == 0) continue;
                    packed.entry_others.push_back(static_cast<std::int32_t>(source));
                    packed.entry_values.push_back(entry);
                }
            }
        packed.entry_starts.push_back(static_cast<std::int32_t>(packed.entry_others.size()));
    }
    model_.blocks = {};
}

}  // namespace asma::edge
