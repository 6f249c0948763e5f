#include "edge/int8.hpp"

#include <algorithm>
#include <utility>

#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::edge {
namespace {

using cpu::int8_padded, cpu::int8_panel, cpu::int8_quad, cpu::int8_slack;

constexpr std::int64_t gathered_bytes = 16 << 10, least_block = 16;  // half of a first cache; frames

std::int64_t whole_panels(std::int64_t columns) {
    return (columns + int8_panel - 1) / int8_panel * int8_panel;
}

}  // namespace

Int8Network::Layer Int8Network::pack(const Int8Numbers& numbers, std::int64_t channels, std::int64_t columns,
                                     std::int64_t taps, std::int64_t column_stride, std::int64_t channel_stride,
                                     std::int64_t tap_stride, std::int64_t joints, bool twice) {
    const std::int64_t whole = whole_panels(columns), quads = int8_padded(channels) / int8_quad;
    const std::int64_t all = twice ? 2 * taps : taps;
    Layer layer;
    layer.packed.resize(static_cast<std::size_t>(whole * all * quads * int8_quad));
    layer.bias.resize(static_cast<std::size_t>(whole * joints));
    layer.scale.resize(static_cast<std::size_t>(whole));
    std::copy(numbers.scale.begin(), numbers.scale.end(), layer.scale.begin());
    for (std::int64_t n = 0; n < columns; ++n) {
        for (std::int64_t joint = 0; joint < joints; ++joint)
            layer.bias[static_cast<std::size_t>(joint * whole + n)] =
                numbers.bias[static_cast<std::size_t>(joint * columns + n)];
        for (std::int64_t tap = 0; tap < all; ++tap)
            for (std::int64_t c = 0; c < channels; ++c) {
                const std::int64_t line = (n / int8_panel * all + tap) * quads + c / int8_quad;
                layer.packed[static_cast<std::size_t>((line * int8_panel + n % int8_panel) * int8_quad +
                                                      c % int8_quad)] =
                    numbers.weight[static_cast<std::size_t>(n * column_stride + c * channel_stride +
                                                            tap % taps * tap_stride)];
            }
    }
    layer.view = {nullptr, nullptr, nullptr, int8_padded(channels), int8_padded(columns), all, 1, 0, 0, false};
    return layer;
}

Int8Network::Layer Int8Network::pack_conv(const ConvLayer& conv) {
    const bool depthwise = conv.groups > 1;
    Layer layer = pack(conv.int8, depthwise ? 1 : conv.channels, conv.columns, conv.taps,
                       conv.taps * (depthwise ? 1 : conv.channels), conv.taps, 1, 1, false);
    if (depthwise) {
        const std::int64_t whole = whole_panels(conv.columns);
        layer.packed.assign(static_cast<std::size_t>(whole * conv.taps), 0);
        for (std::int64_t n = 0; n < conv.columns; ++n)
            for (std::int64_t tap = 0; tap < conv.taps; ++tap)
                layer.packed[static_cast<std::size_t>(tap * whole + n)] =
                    conv.int8.weight[static_cast<std::size_t>(n * conv.taps + tap)];
        layer.view.channels = layer.view.columns, layer.view.depthwise = true;
    }
    layer.view.stride = conv.stride, layer.view.left = conv.left, layer.view.right = conv.right;
    return layer;
}

void Int8Network::pack_gather(const GraphLayer& graph, std::int64_t joints, PackedBlock& packed) {
    const Int8Gather& gather = graph.gather;
    const bool first = gather.adjacency.empty();
    for (std::int64_t target = 0; target < joints; ++target)
        for (std::int64_t k = 0; k < graph.parts; ++k) {
            const auto at = static_cast<std::size_t>(k * joints + target);
            packed.entry_starts.push_back(static_cast<std::int32_t>(packed.entry_sources.size()));
            if (!first) packed.gather_scale.push_back(gather.scale[at]);
            packed.gather_zero.push_back(gather.zero[static_cast<std::size_t>(k)]);
            for (std::int64_t source = 0; source < joints; ++source) {
                const auto entry = static_cast<std::size_t>((k * joints + source) * joints + target);
                if (first ? graph.adjacency[entry] == 0 : gather.adjacency[entry] == 0) continue;
                packed.entry_sources.push_back(static_cast<std::int32_t>(source));
                if (first)
                    packed.first_values.push_back(graph.adjacency[entry]);
                else
                    packed.entry_values.push_back(gather.adjacency[entry]);
            }
        }
    packed.entry_starts.push_back(static_cast<std::int32_t>(packed.entry_sources.size()));
}

Int8Network::Int8Network(Model& model)
    : joints_(model.joints),
      channels_(model.channels),
      features_(model.features()),
      features_scale_(std::move(model.features_scale)),
      kernels_(&cpu::int8_kernels()) {
    const std::int64_t padded = int8_padded(channels_);
    for (auto [numbers, copy] : {std::pair{&model.input_scale, &input_scale_}, {&model.input_shift, &input_shift_}}) {
        copy->resize(static_cast<std::size_t>(joints_ * padded));
        for (std::int64_t i = 0; i < joints_ * channels_; ++i)
            (*copy)[static_cast<std::size_t>(i / channels_ * padded + i % channels_)] =
                (*numbers)[static_cast<std::size_t>(i)];
    }
    for (Block& block : model.blocks) {
        PackedBlock& packed = blocks_.emplace_back();
        const GraphLayer& graph = block.graph;
        packed.graph = pack(graph.int8, graph.channels, graph.columns, graph.parts, graph.channels, 1,
                            graph.columns * graph.channels, joints_, blocks_.size() == 1);
        pack_gather(graph, joints_, packed);
        packed.parts = graph.parts, packed.residual = block.residual;
        packed.residual_step = std::move(block.residual_step);
        packed.residual_step.resize(static_cast<std::size_t>(whole_panels(graph.columns)));
        packed.conv_count = block.pointwise ? 2 : 1;
        packed.convs[0] = pack_conv(block.conv);
        if (block.pointwise) packed.convs[1] = pack_conv(*block.pointwise);
        if (block.shortcut) packed.shortcut = pack_conv(*block.shortcut);
    }
    model.blocks = {};
    for (PackedBlock& block : blocks_)
        for (Layer* layer : {&block.graph, &block.convs[0], &block.convs[1], &block.shortcut})
            layer->view.packed = layer->packed.data(), layer->view.bias = layer->bias.data(),
            layer->view.scale = layer->scale.data();
}

std::int64_t Int8Network::frames(std::int64_t block, std::int64_t source) const {
    return (source - 1) / blocks_[static_cast<std::size_t>(block)].convs[0].view.stride + 1;
}

std::int64_t Int8Network::map_bytes(std::int64_t rows, std::int64_t frames) const {
    std::int64_t most = checked_product({rows, joints_, frames, int8_padded(channels_), sizeof(float)});
    for (std::int64_t i = 0; i < blocks(); ++i) {
        frames = this->frames(i, frames);
        const std::int64_t columns = blocks_[static_cast<std::size_t>(i)].graph.view.columns;
        most = std::max(most, checked_product({rows, joints_, frames, columns}));
    }
    return checked_sum(most, int8_slack);
}

std::int64_t Int8Network::lay_out(const PackedBlock& block, std::int64_t frames, std::uint8_t* memory,
                                  cpu::Int8BlockParams& p) const {
    std::int64_t used = 0;
    const auto take = [&](std::uint8_t*& part, std::int64_t bytes) {
        part = memory ? memory + used : nullptr;
        used = checked_sum(used, checked_sum(bytes, 2 * int8_slack - 1) / int8_slack * int8_slack);
    };
    const cpu::Int8Layer &graph = block.graph.view, &conv = block.convs[0].view;
    const std::int64_t out_frames = (frames - 1) / conv.stride + 1, part = graph.taps * graph.channels;
    p.block = std::min(frames, std::max(least_block, gathered_bytes / part));
    take(p.gathered, checked_product({graph.taps, cpu::int8_part(p.block, graph.channels)}));
    take(p.hidden, checked_product({frames + conv.left + conv.right, graph.columns}));
    take(p.between, block.conv_count > 1 ? checked_product({out_frames, graph.columns}) : 0);
    take(p.beside, block.residual == Residual::convolution ? checked_product({out_frames, graph.columns}) : 0);
    return used;
}

std::int64_t Int8Network::workspace_bytes(std::int64_t frames) const {
    std::int64_t most = int8_padded(features_) * static_cast<std::int64_t>(sizeof(std::int64_t));
    for (std::int64_t i = 0; i < blocks(); ++i) {
        cpu::Int8BlockParams measured{};
        most = std::max(most, lay_out(blocks_[static_cast<std::size_t>(i)], frames, nullptr, measured));
        frames = this->frames(i, frames);
    }
    return most;
}

cpu::Int8BlockParams Int8Network::params(std::int64_t index, std::int64_t frames, std::uint8_t* memory) const {
    const PackedBlock& block = blocks_[static_cast<std::size_t>(index)];
    cpu::Int8BlockParams p{};
    lay_out(block, frames, memory, p);
    p.joints = joints_, p.frames = frames, p.out_frames = this->frames(index, frames), p.parts = block.parts;
    p.x_joint = frames * block.graph.view.channels, p.out_joint = p.out_frames * block.graph.view.columns;
    p.entry_starts = block.entry_starts.data(), p.entry_sources = block.entry_sources.data();
    p.entry_values = block.entry_values.data();
    p.gather_scale = block.gather_scale.data();
    p.gather_zero = block.gather_zero.data();
    p.graph = block.graph.view, p.convs[0] = block.convs[0].view, p.convs[1] = block.convs[1].view;
    p.conv_count = block.conv_count, p.residual_step = block.residual_step.data();
    p.first_values = block.first_values.data();
    p.adds_input = block.residual == Residual::identity;
    if (block.residual == Residual::convolution) p.shortcut = &block.shortcut.view;
    return p;
}

void Int8Network::average(const std::uint8_t* map, std::int64_t frames, std::uint8_t* memory, float* features) const {
    cpu::Int8SumParams p{};
    p.x = map, p.places = joints_ * frames, p.channels = int8_padded(features_);
    p.sums = reinterpret_cast<std::int64_t*>(memory);
    kernels_->sum(p, 0, p.channels / int8_quad);
    for (std::int64_t c = 0; c < features_; ++c) {
        const double step = features_scale_[static_cast<std::size_t>(c)];
        features[c] = static_cast<float>(static_cast<double>(p.sums[c]) * step / static_cast<double>(p.places));
    }
}

}  // namespace asma::edge
