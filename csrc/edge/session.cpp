#include "edge/session.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/graph_conv.hpp"
#include "edge/pooling.hpp"

namespace asma::edge {
namespace {

constexpr std::int64_t most_bodies_at_once = 1'000'000;
constexpr std::int64_t line = 16;                              // floats of a cache line: where each part begins
constexpr std::int64_t largest_arena = std::int64_t{1} << 30;  // floats
constexpr int most_threads = 256;
constexpr std::int64_t graph_rows = 128;  // joints × frames in work at a time
constexpr std::int64_t rows_at_once = 2;  // bodies of a thread: their maps stay in the second cache from layer to layer
constexpr std::int64_t quad = cpu::joint_padding<float>;

std::int64_t whole_lines(std::int64_t count) {
    return checked_sum(count, line - 1) / line * line;
}

std::int64_t floats_of(std::int64_t bytes) {
    return checked_sum(bytes, sizeof(float) - 1) / static_cast<std::int64_t>(sizeof(float));
}

std::int64_t graph_width(const GraphLayer& graph) {
    return (graph.channels + quad - 1) / quad * quad;
}

std::int64_t graph_block(std::int64_t frames, std::int64_t joints) {
    return std::max<std::int64_t>(1, std::min(frames, graph_rows / joints));
}

// Numbers of a thread's workspace of a graph convolution; with memory, cuts it.
std::int64_t lay_out(const GraphLayer& graph, std::int64_t joints, std::int64_t block, float* memory,
                     cpu::GraphConvWorkspace<float>& work) {
    std::int64_t used = 0;
    const auto take = [&](float*& part, std::int64_t count) {
        part = memory ? memory + used : nullptr;
        used = checked_sum(used, whole_lines(count));
    };
    const std::int64_t width = graph_width(graph);
    take(work.read, checked_product({block, joints, width}));
    take(work.gathered, checked_product({block, joints, width, graph.parts}));
    take(work.packed_frame, joints * cpu::packed_columns(width));
    take(work.into.values, graph.parts * joints * joints);
    take(work.entry_sums, joints * graph.parts);
    take(work.columns, joints * (quad + 1) * quad);
    return used;
}

std::int64_t lay_out_lists(const GraphLayer& graph, std::int64_t joints, std::int32_t* memory,
                           cpu::GraphConvWorkspace<float>& work) {
    std::int64_t used = 0;
    const auto take = [&](std::int32_t*& part, std::int64_t count) {
        part = memory ? memory + used : nullptr;
        used += count;
    };
    take(work.into.starts, joints * graph.parts + 1);
    take(work.into.others, graph.parts * joints * joints);
    take(work.first_joints, joints);
    take(work.next_joints, joints);
    return used;
}

enum class Numbers : std::uint8_t { zero, finite, not_finite };

// What a frame's numbers are, all of them looked at, four at a time.
Numbers look_at(const float* numbers, std::int64_t count) {
    constexpr std::uint32_t exponent = 0x7F800000U, carry = 0x00800000U;
    std::uint32_t some = 0, carries = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, numbers + i, sizeof bits);
        some |= bits & 0x7FFFFFFFU;
        carries |= (bits & exponent) + carry;  // into the highest bit where all of the exponent's are set
    }
    return carries >> 31 ? Numbers::not_finite : some ? Numbers::finite : Numbers::zero;
}

}  // namespace

std::int64_t rows_of(const Network& network, std::int64_t clips, std::int64_t bodies) {
    for (const auto& [name, value] : {std::pair{"max_clips", clips}, std::pair{"max_bodies", bodies}})
        if (value < 1) throw Error(std::string(name) + " must be at least 1, got " + std::to_string(value));
    if (network.model().recipe) bodies = std::max(bodies, network.model().recipe->bodies);
    if (bodies > most_bodies_at_once || clips > most_bodies_at_once / bodies)
        throw Error("a session takes at most " + std::to_string(most_bodies_at_once) + " bodies at once, got " +
                    std::to_string(clips) + " clips of " + std::to_string(bodies));
    return clips * bodies;
}

Session::Turn::Turn(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire))
        throw Error("a session runs one call at a time: give each thread its own; sessions share their weights");
}

Session::Session(std::shared_ptr<const Network> network, std::int64_t most_rows, int threads)
    : network_(std::move(network)), most_rows_(most_rows), threads_(threads) {
    if (threads < 1 || threads > most_threads)
        throw Error("threads must be from 1 to " + std::to_string(most_threads) + ", got " + std::to_string(threads));
    const Model& model = network_->model();
    const std::int64_t joints = model.joints, most = network_->most_frames();
    // More rows never make a workspace smaller; cuts of less than four rows are finer than that of four.
    const std::int64_t cut_rows = std::max<std::int64_t>(4, most_rows);
    std::int64_t map = 0, frames = most;
    cpu::GraphConvWorkspace<float> measured{};
    for (const PackedBlock& block : network_->blocks()) {
        const auto measure = [&](const PackedConv& conv, std::int64_t longest) {
            for (std::int64_t length = 1; length <= std::min(longest, telling_frames); ++length) {
                const cpu::TemporalConvSizes sizes = conv.sizes(cut_rows, length);
                const cpu::ConvCut cut = cpu::conv_cut(sizes, cpu::conv_plan(sizes, conv.map()), false);
                workspace_ = std::max(workspace_, cut.workspace);
            }
            return conv.layer().frames(longest);
        };
        map = std::max(map, checked_product({most_rows, frames, joints, block.graph.columns}));
        workspace_ = std::max(workspace_, lay_out(block.graph, joints, graph_block(frames, joints), nullptr, measured));
        lists_a_thread_ = std::max(lists_a_thread_, lay_out_lists(block.graph, joints, nullptr, measured));
        for (const PackedConv& conv : block.shortcut) measure(conv, frames);
        for (const PackedConv& conv : block.convs) frames = measure(conv, frames);
    }
    const Int8Network* const int8 = network_->int8();
    if (int8) {
        map = floats_of(int8->map_bytes(most_rows, most));
        workspace_ = floats_of(int8->workspace_bytes(most));
    }
    workspace_ = whole_lines(workspace_);
    const std::int64_t clip = checked_product({most, joints, model.channels}), width = network_->features();
    std::int64_t total = line;
    const auto reserve = [&](std::int64_t count) {
        const std::int64_t at = total;
        total = checked_sum(total, whole_lines(count));
        return at;
    };
    const std::int64_t clips_at = reserve(checked_product({most_rows, clip}));
    std::int64_t maps_at[4];
    for (int i = 0; i < 4; ++i) maps_at[i] = int8 && i >= 2 ? 0 : reserve(map);
    const std::int64_t features_at = reserve(checked_product({most_rows, width}));
    const std::int64_t pooled_at = reserve(3 * width + 2), empty_at = reserve(checked_product({most, width}));
    const std::int64_t workspaces_at = reserve(checked_product({threads, workspace_}));
    if (total > largest_arena)
        throw Error("the session would need " + std::to_string(total / (std::int64_t{1} << 18)) +
                    " MiB of working memory; ask for fewer or shorter clips");
    arena_.resize(static_cast<std::size_t>(total));
    lists_.resize(static_cast<std::size_t>(checked_product({threads, lists_a_thread_})));
    known_empty_.resize(static_cast<std::size_t>(most));
    present_.resize(static_cast<std::size_t>(most_rows));
    const auto misaligned = reinterpret_cast<std::uintptr_t>(arena_.data()) % (line * sizeof(float)) / sizeof(float);
    float* const first = arena_.data() + (misaligned ? line - static_cast<std::int64_t>(misaligned) : 0) - line;
    const auto at = [&](std::int64_t place) { return first + place; };
    clips_ = at(clips_at), features_ = at(features_at), pooled_ = at(pooled_at), empty_ = at(empty_at);
    for (int i = 0; i < 4; ++i) maps_[i] = at(maps_at[i]);
    workspaces_ = at(workspaces_at);
}

// body(begin, end, thread) over all items, a stretch a thread.
template <class Body> void Session::share_out(std::int64_t items, Body&& body) {
    const std::int64_t pieces = std::min<std::int64_t>(threads_, items);
    if (pieces <= 1) return body(std::int64_t{0}, items, std::int64_t{0});
    parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) body(items * i / pieces, items * (i + 1) / pieces, i);
    });
}

void Session::convolve_graph(const PackedBlock& block, bool first, std::int64_t rows, std::int64_t frames,
                             const float* x, float* out) {
    const GraphLayer& graph = block.graph;
    const Model& model = network_->model();
    if (!block.edges.starts.empty()) {
        const EdgeWeights& edges = block.edges;
        const cpu::EdgeConvParams<float> p{x,
                                           rows,
                                           frames,
                                           model.joints,
                                           graph.channels,
                                           graph.columns,
                                           edges.starts.data(),
                                           edges.others.data(),
                                           edges.weight.data(),
                                           edges.bias.data(),
                                           out};
        const auto kernel = block.kernels->edge_conv;
        return share_out(rows * ((frames + cpu::edge_conv_frames - 1) / cpu::edge_conv_frames),
                         [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel(p, begin, end); });
    }
    cpu::GraphConvParams<float> p{};
    p.x = x;
    p.joints = p.graph = model.joints, p.frames = frames, p.rows = rows, p.bodies = 1;
    p.channels = graph.channels, p.width = graph_width(graph), p.parts = graph.parts, p.out_channels = graph.columns;
    p.x_channel = 1, p.x_joint = graph.channels, p.x_frame = p.joints * p.x_joint, p.x_clip = frames * p.x_frame;
    p.block = graph_block(frames, p.joints);
    if (first) p.scale = model.input_scale.data(), p.shift = model.input_shift.data();
    p.adjacency = graph.adjacency.data();
    p.adjacency_part = p.joints * p.joints, p.adjacency_source = p.joints, p.adjacency_target = 1;
    p.whole_into = {const_cast<std::int32_t*>(block.entry_starts.data()),
                    const_cast<std::int32_t*>(block.entry_others.data()),
                    const_cast<float*>(block.entry_values.data())};
    p.joint_bias = graph.bias.data(), p.relu = true;
    p.packed = block.packed_graph.data(), p.out = out;
    const auto kernel = block.kernels->graph_conv;
    share_out(rows * ((frames + p.block - 1) / p.block),
              [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
                  cpu::GraphConvParams<float> mine = p;
                  lay_out(graph, p.joints, p.block, workspaces_ + thread * workspace_, mine.work);
                  lay_out_lists(graph, p.joints, lists_.data() + thread * lists_a_thread_, mine.work);
                  kernel(mine, begin, end);
              });
}

void Session::convolve(const PackedConv& conv, std::int64_t rows, std::int64_t frames, const float* x,
                       const float* residual, bool relu, float* out) {
    const cpu::TemporalConvSizes sizes = conv.sizes(rows, frames);
    const cpu::ConvPlan plan = cpu::conv_plan(sizes, conv.map());
    const cpu::ConvCut cut = cpu::conv_cut(sizes, plan, false);
    cpu::TemporalConvParams<float> p{};
    p.x = x, p.packed = conv.weights(plan.way), p.bias = conv.layer().bias.data(), p.out = out;
    p.sizes = sizes, p.map = plan.map, p.cut = plan.cut;
    p.packed_group = cpu::packed_weights(sizes, plan);
    p.block_frames = cut.block_frames, p.together = cut.together;
    p.store.residual = residual, p.store.relu = relu;
    const auto kernel = cpu::conv_kernel(conv.kernels(), plan.way);
    share_out(cut.items, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
        cpu::TemporalConvParams<float> mine = p;
        mine.workspace = workspaces_ + thread * workspace_;
        kernel(mine, begin, end);
    });
}

// Clips (rows, T, V, C) to features (rows, D).
void Session::forward(const float* clips, std::int64_t rows, std::int64_t frames, float* features) {
    if (const Int8Network* const int8 = network_->int8()) return forward_int8(*int8, clips, rows, frames, features);
    const std::int64_t joints = network_->model().joints;
    const float* x = clips;
    float *out = maps_[0], *spare = maps_[1];
    bool first = true;
    for (const PackedBlock& block : network_->blocks()) {
        float *hidden = maps_[2], *beside = maps_[3];
        convolve_graph(block, first, rows, frames, x, hidden);
        const float* residual = block.residual == Residual::identity ? x : nullptr;
        std::int64_t length = frames;
        if (block.convs.size() > 1) {  // the shortcut takes the hidden map's place, once it is read
            convolve(block.convs[0], rows, frames, hidden, nullptr, true, beside);
            length = block.convs[0].layer().frames(frames);
            std::swap(hidden, beside);
        }
        if (!block.shortcut.empty()) {
            convolve(block.shortcut[0], rows, frames, x, nullptr, false, beside);
            residual = beside;
        }
        const PackedConv& last = block.convs.back();
        convolve(last, rows, length, hidden, residual, true, out);
        frames = last.layer().frames(length);
        x = out;
        std::swap(out, spare);
        first = false;
    }
    const std::int64_t width = network_->features(), places = frames * joints;
    auto* const sums = reinterpret_cast<double*>(pooled_ + width + width % 2);
    for (std::int64_t row = 0; row < rows; ++row)
        average(x + row * places * width, places, width, width, features + row * width, sums);
}

// The same in int8: a block of one joint after the other.
void Session::forward_int8(const Int8Network& int8, const float* clips, std::int64_t rows, std::int64_t frames,
                           float* features) {
    const Model& model = network_->model();
    const auto bytes = [](float* memory) { return reinterpret_cast<std::uint8_t*>(memory); };
    std::uint8_t *x = bytes(maps_[0]), *out = bytes(maps_[1]);
    cpu::Int8InputParams input{};
    input.clips = clips, input.scale = int8.input_scale(), input.shift = int8.input_shift(), input.x = maps_[0];
    input.joints = model.joints, input.frames = frames, input.channels = model.channels;
    input.x_joint = frames * cpu::int8_padded(model.channels);
    share_out(rows * frames,
              [&](std::int64_t begin, std::int64_t end, std::int64_t) { int8.kernels().input(input, begin, end); });
    for (std::int64_t i = 0; i < int8.blocks(); ++i) {
        share_out(rows * model.joints, [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
            cpu::Int8BlockParams mine = int8.params(i, frames, bytes(workspaces_ + thread * workspace_));
            mine.x = x, mine.out = out;
            if (i == 0) mine.first_x = maps_[0];
            int8.kernels().block(mine, begin, end);
        });
        frames = int8.frames(i, frames);
        std::swap(x, out);
    }
    const std::int64_t row_bytes = model.joints * frames * cpu::int8_padded(network_->features());
    for (std::int64_t row = 0; row < rows; ++row)
        int8.average(x + row * row_bytes, frames, bytes(workspaces_), features + row * network_->features());
}

// Whether a frame of it is finite and not all zero; counts those that are not finite.
bool Session::is_present(const float* body, std::int64_t frames) {
    const std::int64_t frame = network_->model().joints * network_->model().channels;
    bool present = false;
    for (std::int64_t t = 0; t < frames; ++t) {
        const Numbers numbers = look_at(body + t * frame, frame);
        missing_ += numbers == Numbers::not_finite;
        present = present || numbers == Numbers::finite;
    }
    return present;
}

// Copies its frames; one with a number that is not finite becomes empty.
void Session::take_body(const float* body, std::int64_t frames, float* to) const {
    const std::int64_t frame = network_->model().joints * network_->model().channels;
    for (std::int64_t t = 0; t < frames; ++t, body += frame, to += frame) {
        if (look_at(body, frame) == Numbers::not_finite)
            std::fill(to, to + frame, 0.0F);
        else
            std::memcpy(to, body, static_cast<std::size_t>(frame) * sizeof(float));
    }
}

// Features of a body that is not there, computed once for each length. Overwrites the first clip.
const float* Session::empty_body(std::int64_t frames) {
    float* const found = empty_ + (frames - 1) * network_->features();
    if (!known_empty_[static_cast<std::size_t>(frames - 1)]) {
        std::fill(clips_, clips_ + frames * network_->model().joints * network_->model().channels, 0.0F);
        forward(clips_, 1, frames, found);
        known_empty_[static_cast<std::size_t>(frames - 1)] = 1;
    }
    return found;
}

void Session::run(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames, float* logits) {
    const Turn turn(busy_);
    run_prepared(clips, count, bodies, frames, logits);
}

void Session::run_recording(const ClipView& recording, float* logits) {
    const Turn turn(busy_);
    run_in_turn(recording, logits);
}

void Session::run_in_turn(const ClipView& recording, float* logits) {
    const PreparedClip clip = prepare(network_->model(), recording, network_->most_frames(), most_rows_);
    run_prepared(clip.numbers.data(), 1, clip.bodies, clip.frames, logits);
    missing_ += clip.missing;
}

void Session::run_prepared(const float* clips, std::int64_t count, std::int64_t bodies, std::int64_t frames,
                           float* logits) {
    const Model& model = network_->model();
    const std::int64_t width = network_->features();
    if (count < 0 || bodies < 1) throw Error("clips must have at least one body");
    if (frames < 1 || frames > network_->most_frames())
        throw Error("clips must have from 1 to " + std::to_string(network_->most_frames()) +
                    " frames, as the session was made for, got " + std::to_string(frames));
    if (count > most_rows_ / bodies)
        throw Error("the session was made for " + std::to_string(most_rows_) + " bodies at once, got " +
                    std::to_string(count) + " clips of " + std::to_string(bodies));
    const std::int64_t body = frames * model.joints * model.channels;
    std::int64_t rows = 0;
    for (std::int64_t i = 0; i < count * bodies; ++i) {
        present_[static_cast<std::size_t>(i)] = is_present(clips + i * body, frames);
        rows += present_[static_cast<std::size_t>(i)];
    }
    // First, for it is computed where the clips will be.
    const float* const empty = rows < count * bodies ? empty_body(frames) : nullptr;
    float* to = clips_;
    for (std::int64_t i = 0; i < count * bodies; ++i)
        if (present_[static_cast<std::size_t>(i)]) take_body(clips + i * body, frames, to), to += body;
    const std::int64_t at_once = rows_at_once * threads_;
    for (std::int64_t row = 0; row < rows; row += at_once)
        forward(clips_ + row * body, std::min(at_once, rows - row), frames, features_ + row * width);

    const float* feature = features_;
    for (std::int64_t n = 0; n < count; ++n) {
        std::fill(pooled_, pooled_ + width, 0.0F);
        std::int64_t averaged = 0;
        for (std::int64_t m = 0; m < bodies; ++m) {
            const bool here = present_[static_cast<std::size_t>(n * bodies + m)];
            const float* const one = here ? feature : empty;
            if (here) feature += width;
            if (!here && model.present_bodies) continue;
            ++averaged;
            for (std::int64_t c = 0; c < width; ++c) pooled_[c] += one[c];
        }
        if (averaged == 0) averaged = 1, std::memcpy(pooled_, empty, static_cast<std::size_t>(width) * sizeof(float));
        for (std::int64_t c = 0; c < width; ++c) pooled_[c] /= static_cast<float>(averaged);
        apply_head(model, pooled_, logits + n * network_->classes());
    }
}

}  // namespace asma::edge
