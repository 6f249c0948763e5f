// Graph convolution: joints are gathered along the non-zero entries of the adjacency on the narrow, input side, and the
// channel product follows while they are in cache. The three partitions of 25 joints hold 73 entries of 1,875, so the
// gathering is next to nothing and the product has no more rows than joints.
//
//   x̂[t, v, c]    read through the view, scaled and shifted by node
//   z[t, w, k, c] = Σ_v A[k, v, w] · x̂[t, v, c]
//   out[t, w, o]  = Σ_k Σ_c z[t, w, k, c] · W[k, o, c] + Σ_k (Σ_v A[k, v, w]) · bias[k, o]
//
// The backward pass reads x̂ and gathers z again instead of keeping them.
#include "cpu/graph_conv.hpp"

#include "cpu/micro_kernel.hpp"
#include "cpu/simd.hpp"
#include "cpu/statistics.hpp"
#include "cpu/transform_joint.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

using Params = GraphConvParams<real>;
using Workspace = GraphConvWorkspace<real>;
using Backward = GraphConvBackwardParams<real>;

// ---- vectors over the channels of a joint, which is padded to quads: no loop has a scalar remainder ----

struct WideStep {
    using Type = Vec;
    static constexpr std::int64_t lanes = ASMA_ISA::lanes;
    static Type load(const real* from) { return ASMA_ISA::load(from); }
    static void store(real* to, Type value) { ASMA_ISA::store(to, value); }
};

struct QuadStep {
    typedef real Type __attribute__((vector_size(16), may_alias));
    typedef real Unaligned __attribute__((vector_size(16), may_alias, aligned(sizeof(real))));
    static constexpr std::int64_t lanes = joint_padding<real>;
    static Type load(const real* from) { return *reinterpret_cast<const Unaligned*>(from); }
    static void store(real* to, Type value) { *reinterpret_cast<Unaligned*>(to) = value; }
};

// Rows summed in one register before they join the gradient of the weights: short sums lose less to rounding.
constexpr std::int64_t rows_of_a_sum = 32;

static_assert(lanes <= sum_lanes<real> && lanes % joint_padding<real> == 0);

std::int64_t wide_part(std::int64_t width) {
    return width / lanes * lanes;
}

void clear(real* to, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = 0;
}

// ---- the graph of a row: the non-zero entries among its joints ----

struct Graph {
    const real* adjacency = nullptr;  // of the row
    const std::int32_t* nodes = nullptr;
    bool known = false;
    std::int64_t node(std::int64_t joint) const { return nodes ? nodes[joint] : joint; }
};

// Of the entries A[k, other, joint], or, transposed, A[k, joint, other].
void list_entries(const Params& p, const Graph& graph, const GraphConvEntries<real>& lists, std::int64_t joint_stride,
                  std::int64_t other_stride) {
    std::int32_t count = 0;
    for (std::int64_t joint = 0; joint < p.joints; ++joint)
        for (std::int64_t k = 0; k < p.parts; ++k) {
            const real* line = graph.adjacency + k * p.adjacency_part + graph.node(joint) * joint_stride;
            lists.starts[joint * p.parts + k] = count;
            for (std::int64_t other = 0; other < p.joints; ++other) {
                const real entry = line[graph.node(other) * other_stride];
                if (entry == 0) continue;  // carries nothing, not even a NaN
                lists.others[count] = static_cast<std::int32_t>(other);
                lists.values[count++] = entry;
            }
        }
    lists.starts[p.joints * p.parts] = count;
}

bool has_entries(const Workspace& work, std::int64_t target_part) {
    return work.into.starts[target_part + 1] > work.into.starts[target_part];
}

void sum_bias(const Params& p) {
    const Workspace& work = p.work;
    clear(work.bias_rows, p.joints * p.out_channels);
    for (std::int64_t w = 0; w < p.joints; ++w)
        for (std::int64_t k = 0; k < p.parts; ++k) {
            if (!has_entries(work, w * p.parts + k)) continue;
            const real sum = work.entry_sums[w * p.parts + k];
            real* to = work.bias_rows + w * p.out_channels;
            for (std::int64_t o = 0; o < p.out_channels; ++o) to[o] += sum * p.bias[k * p.out_channels + o];
        }
}

// Whether row b has another graph than the row before it, which is then listed.
bool take_graph(const Params& p, std::int64_t b, Graph& graph) {
    const real* adjacency = p.adjacency + b * p.adjacency_row;
    const std::int32_t* nodes = p.nodes ? p.nodes + b / p.rows_per_nodes * p.nodes_stride : nullptr;
    if (graph.known && adjacency == graph.adjacency && nodes == graph.nodes) return false;
    graph = {adjacency, nodes, true};
    list_entries(p, graph, p.work.into, p.adjacency_target, p.adjacency_source);
    if (p.work.from.starts) list_entries(p, graph, p.work.from, p.adjacency_source, p.adjacency_target);
    for (std::int64_t target = 0; target < p.joints * p.parts; ++target) {
        p.work.entry_sums[target] = 0;
        for (std::int32_t e = p.work.into.starts[target]; e < p.work.into.starts[target + 1]; ++e)
            p.work.entry_sums[target] += p.work.into.values[e];
    }
    if (p.bias && p.work.bias_rows) sum_bias(p);
    return true;
}

// ---- reading x̂ ----

struct Frames {
    const real* first;
    std::int64_t frame, joint;  // strides
};

// Into `to`, which may be where they come from.
Frames scale_and_shift(const Params& p, const Graph& graph, const Frames& from, std::int64_t count, real* to) {
    for (std::int64_t t = 0; t < count; ++t)
        for (std::int64_t v = 0; v < p.joints; ++v) {
            const real* in = from.first + t * from.frame + v * from.joint;
            const real* scale = p.scale + graph.node(v) * p.channels;
            const real* shift = p.shift + graph.node(v) * p.channels;
            real* out = to + (t * p.joints + v) * p.width;
            for (std::int64_t c = 0; c < p.channels; ++c) out[c] = scale[c] * in[c] + shift[c];
            for (std::int64_t c = p.channels; c < p.width; ++c) out[c] = 0;
        }
    return {to, p.joints * p.width, p.width};
}

// The frames [first, first + count) of row b before scale and shift, in `buffer`; or where they stand, if that will do.
Frames read_unscaled(const Params& p, std::int64_t b, std::int64_t first, std::int64_t count, real* buffer) {
    const ViewMaps<real>& view = p.view;
    const std::int64_t n = b / p.bodies;
    const real* body = p.x + n * p.x_clip + b % p.bodies * p.x_body;
    if (!view.frames && !view.joints && !view.transform && p.x_channel == 1 && p.channels == p.width)
        return {body + first * p.x_frame, p.x_frame, p.x_joint};
    const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
    const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
    const real* transform = view.transform + n * view.transform_stride;
    for (std::int64_t t = 0; t < count; ++t) {
        const real* frame = body + (frames ? frames[first + t] : first + t) * p.x_frame;
        for (std::int64_t v = 0; v < p.joints; ++v) {
            real* to = buffer + (t * p.joints + v) * p.width;
            transform_joint(frame + (joints ? joints[v] : v) * p.x_joint, p.x_channel, to, transform, view.dims,
                            p.channels);
            for (std::int64_t c = p.channels; c < p.width; ++c) to[c] = 0;
        }
    }
    return {buffer, p.joints * p.width, p.width};
}

// ---- gathering ----

// z of `rows` targets × parts: Σ of the entries' values times their sources.
template <class Step> void gather_columns(const Params& p, const real* frame, std::int64_t joint, std::int64_t begin,
                                          std::int64_t end, real* gathered) {
    const GraphConvEntries<real>& into = p.work.into;
    for (std::int64_t target = 0; target < p.joints * p.parts; ++target) {
        const std::int32_t first = into.starts[target], last = into.starts[target + 1];
        for (std::int64_t c = begin; c < end; c += Step::lanes) {
            typename Step::Type sum{};
            for (std::int32_t e = first; e < last; ++e)
                sum += into.values[e] * Step::load(frame + into.others[e] * joint + c);
            Step::store(gathered + target * p.width + c, sum);
        }
    }
}

void gather(const Params& p, const Frames& read, std::int64_t count) {
    const std::int64_t wide = wide_part(p.width);
    for (std::int64_t t = 0; t < count; ++t) {
        const real* frame = read.first + t * read.frame;
        real* to = p.work.gathered + t * p.joints * p.parts * p.width;
        if (wide > 0) gather_columns<WideStep>(p, frame, read.joint, 0, wide, to);
        if (wide < p.width) gather_columns<QuadStep>(p, frame, read.joint, wide, p.width, to);
    }
}

// ---- backward, in the order of its use ----

// sums[v, w] += Σ_t Σ_c x̂[t, v, c] · gz[t, w, c] for Sources × Targets pairs, lane by lane.
template <class Step, int Sources, int Targets> void dot_tile(const Backward& p, const Frames& read, const real* grad,
                                                              std::int64_t frames, std::int64_t begin, std::int64_t end,
                                                              real* sums_out) {
    const Params& f = p.forward;
    const std::int64_t grad_joint = f.parts * f.width, grad_frame = f.joints * grad_joint;
    typename Step::Type sums[Sources][Targets] = {};
    for (std::int64_t t = 0; t < frames; ++t)
        for (std::int64_t c = begin; c < end; c += Step::lanes) {
            typename Step::Type source[Sources];
            for (int v = 0; v < Sources; ++v) source[v] = Step::load(read.first + t * read.frame + v * read.joint + c);
            for (int w = 0; w < Targets; ++w) {
                const typename Step::Type target = Step::load(grad + t * grad_frame + w * grad_joint + c);
                for (int v = 0; v < Sources; ++v) sums[v][w] += source[v] * target;
            }
        }
    for (int v = 0; v < Sources; ++v)
        for (int w = 0; w < Targets; ++w) {
            real* to = sums_out + (v * f.joints + w) * sum_lanes<real>;
            Step::store(to, Step::load(to) + sums[v][w]);
        }
}

template <class Step>
void dot_all(const Backward& p, const Frames& read, std::int64_t frames, std::int64_t begin, std::int64_t end) {
    const Params& f = p.forward;
    constexpr int sources = 2, targets = 4;
    for (std::int64_t k = 0; k < f.parts; ++k)
        for (std::int64_t v = 0; v < f.joints;) {
            const bool pair = f.joints - v >= sources;
            const Frames from{read.first + v * read.joint, read.frame, read.joint};
            for (std::int64_t w = 0; w < f.joints;) {
                const bool wide = f.joints - w >= targets;
                const auto tile = pair ? (wide ? dot_tile<Step, sources, targets> : dot_tile<Step, sources, 1>)
                                       : (wide ? dot_tile<Step, 1, targets> : dot_tile<Step, 1, 1>);
                tile(p, from, f.work.gathered_grad + (w * f.parts + k) * f.width, frames, begin, end,
                     f.work.adjacency_sums + ((k * f.joints + v) * f.joints + w) * sum_lanes<real>);
                w += wide ? targets : 1;
            }
            v += pair ? sources : 1;
        }
}

template <class Step> void dot_pattern(const Backward& p, const Graph& graph, const Frames& read, std::int64_t frames,
                                       std::int64_t begin, std::int64_t end) {
    const Params& f = p.forward;
    for (std::int64_t k = 0; k < f.parts; ++k)
        for (std::int64_t v = 0; v < f.joints; ++v) {
            const bool* row = p.pattern + k * p.pattern_part + graph.node(v) * p.pattern_source;
            const Frames from{read.first + v * read.joint, read.frame, read.joint};
            for (std::int64_t w = 0; w < f.joints; ++w)
                if (row[graph.node(w) * p.pattern_target])
                    dot_tile<Step, 1, 1>(p, from, f.work.gathered_grad + (w * f.parts + k) * f.width, frames, begin,
                                         end,
                                         f.work.adjacency_sums + ((k * f.joints + v) * f.joints + w) * sum_lanes<real>);
        }
}

void add_adjacency_dots(const Backward& p, const Graph& graph, const Frames& read, std::int64_t frames) {
    const std::int64_t width = p.forward.width, wide = wide_part(width);
    if (p.pattern) {
        if (wide > 0) dot_pattern<WideStep>(p, graph, read, frames, 0, wide);
        if (wide < width) dot_pattern<QuadStep>(p, graph, read, frames, wide, width);
    } else {
        if (wide > 0) dot_all<WideStep>(p, read, frames, 0, wide);
        if (wide < width) dot_all<QuadStep>(p, read, frames, wide, width);
    }
}

// gA of a whole row, into `grad` (K, V_graph, V_graph) by node: the dots, and Σ_o bias[k, o] · Σ_t g[t, w, o].
void add_adjacency_row(const Backward& p, const Graph& graph, real* grad) {
    const Params& f = p.forward;
    for (std::int64_t k = 0; k < f.parts; ++k)
        for (std::int64_t w = 0; w < f.joints; ++w) {
            real from_bias = 0;
            for (std::int64_t o = 0; f.bias && o < f.out_channels; ++o)
                from_bias += f.bias[k * f.out_channels + o] * f.work.g_sums[w * f.out_channels + o];
            const std::int64_t target = graph.node(w);
            for (std::int64_t v = 0; v < f.joints; ++v) {
                const std::int64_t source = graph.node(v);
                if (p.pattern && !p.pattern[k * p.pattern_part + source * p.pattern_source + target * p.pattern_target])
                    continue;
                const real* sums = f.work.adjacency_sums + ((k * f.joints + v) * f.joints + w) * sum_lanes<real>;
                real dot = 0;
                for (std::int64_t lane = 0; lane < sum_lanes<real>; ++lane) dot += sums[lane];
                grad[(k * p.graph + source) * p.graph + target] += dot + from_bias;
            }
        }
}

void add_bias_row(const Backward& p, real* grad) {
    const Params& f = p.forward;
    for (std::int64_t w = 0; w < f.joints; ++w)
        for (std::int64_t k = 0; k < f.parts; ++k) {
            if (!has_entries(f.work, w * f.parts + k)) continue;
            const real sum = f.work.entry_sums[w * f.parts + k];
            for (std::int64_t o = 0; o < f.out_channels; ++o)
                grad[k * f.out_channels + o] += sum * f.work.g_sums[w * f.out_channels + o];
        }
}

// gx̂[v, c] = Σ_k Σ_w A[k, v, w] · gz[w, k, c] of frame t of the block, each part summed by itself.
template <class Step> void spread_columns(const Params& p, const real* grad, std::int64_t begin, std::int64_t end) {
    const GraphConvEntries<real>& from = p.work.from;
    for (std::int64_t v = 0; v < p.joints; ++v)
        for (std::int64_t c = begin; c < end; c += Step::lanes) {
            typename Step::Type total{};
            for (std::int64_t k = 0; k < p.parts; ++k) {
                typename Step::Type sum{};
                for (std::int32_t e = from.starts[v * p.parts + k]; e < from.starts[v * p.parts + k + 1]; ++e)
                    sum += from.values[e] * Step::load(grad + (from.others[e] * p.parts + k) * p.width + c);
                total += sum;
            }
            Step::store(p.work.read_grad + v * p.width + c, total);
        }
}

void spread_frame(const Params& p, std::int64_t t) {
    const std::int64_t wide = wide_part(p.width);
    const real* grad = p.work.gathered_grad + t * p.joints * p.parts * p.width;
    if (wide > 0) spread_columns<WideStep>(p, grad, 0, wide);
    if (wide < p.width) spread_columns<QuadStep>(p, grad, wide, p.width);
}

// From gx̂ of one frame to the gradients of scale, shift and x.
void take_read_grad(const Backward& p, const Graph& graph, const Frames& unscaled, std::int64_t b, std::int64_t first,
                    std::int64_t t) {
    const Params& f = p.forward;
    const ViewMaps<real>& view = f.view;
    const std::int64_t n = b / f.bodies;
    const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
    const std::int64_t frame = view.frames ? view.frames[n * view.frames_stride + first + t] : first + t;
    for (std::int64_t v = 0; v < f.joints; ++v) {
        real* grad = f.work.read_grad + v * f.width;
        const real* read = unscaled.first + t * unscaled.frame + v * unscaled.joint;
        if (p.scale_parts)
            for (std::int64_t c = 0; c < f.channels; ++c) f.work.scale_sums[v * f.width + c] += grad[c] * read[c];
        if (p.shift_parts)
            for (std::int64_t c = 0; c < f.channels; ++c) f.work.shift_sums[v * f.width + c] += grad[c];
        if (!p.x_grad) continue;
        if (f.scale)
            for (std::int64_t c = 0; c < f.channels; ++c) grad[c] *= f.scale[graph.node(v) * f.channels + c];
        real* to = p.x_grad + ((b * p.x_frames + frame) * p.x_joints + (joints ? joints[v] : v)) * f.channels;
        add_transposed_joint(grad, 1, to, view.transform + n * view.transform_stride, view.dims, f.channels);
    }
}

// The gradients of the frames [first, first + count) of row b; what is summed over a row goes to the workspace.
void backward_block(const Backward& p, const Graph& graph, std::int64_t b, std::int64_t first, std::int64_t count,
                    real* weight_grad) {
    const Params& f = p.forward;
    const Workspace& work = f.work;
    const std::int64_t gathered = f.parts * f.width;
    const std::int64_t begin = (b * f.frames + first) * f.joints * f.out_channels;
    const real* g = p.g + begin;
    if (p.y) {
        add_sums_grad(g, p.y + begin, count * f.joints, f.out_channels, p.sums_grad, work.summed_grad);
        g = work.summed_grad;
    }
    const bool read_wanted = p.x_grad || p.scale_parts || p.shift_parts;
    const bool adjacency_wanted = p.adjacency_parts || p.adjacency_grad;
    Frames unscaled{}, read{};
    if (weight_grad || adjacency_wanted || p.scale_parts) {
        unscaled = read = read_unscaled(f, b, first, count, work.unscaled);
        if (f.scale) read = scale_and_shift(f, graph, unscaled, count, work.read);
    }
    if (weight_grad) {
        gather(f, read, count);
        for (std::int64_t row = 0; row < count * f.joints; row += rows_of_a_sum) {
            const std::int64_t left = count * f.joints - row;
            accumulate_outer({work.gathered + row * gathered, g + row * f.out_channels, weight_grad, gathered,
                              f.out_channels, f.out_channels, left < rows_of_a_sum ? left : rows_of_a_sum, gathered},
                             0, f.out_channels);
        }
    }
    if (p.bias_parts || (f.bias && adjacency_wanted))
        for (std::int64_t row = 0; row < count * f.joints; ++row)
            for (std::int64_t o = 0; o < f.out_channels; ++o)
                work.g_sums[row % f.joints * f.out_channels + o] += g[row * f.out_channels + o];
    if (!read_wanted && !adjacency_wanted) return;
    RowProduct product{};
    product.source = g, product.out = work.gathered_grad, product.packed = p.packed_transposed;
    product.source_row = f.out_channels, product.out_row = gathered;
    product.rows = count * f.joints, product.channels = f.out_channels;
    product.packed_taps = product.tap_step = product.taps = 1;
    multiply_rows(product, 0, gathered);
    if (adjacency_wanted) add_adjacency_dots(p, graph, read, count);
    for (std::int64_t t = 0; read_wanted && t < count; ++t) {
        spread_frame(f, t);
        take_read_grad(p, graph, unscaled, b, first, t);
    }
}

// The gradients of row b, all its frames.
void backward_row(const Backward& p, const Graph& graph, std::int64_t b, std::int64_t share) {
    const Params& f = p.forward;
    const Workspace& work = f.work;
    const std::int64_t gathered = f.parts * f.width, x_size = p.x_frames * p.x_joints * f.channels;
    const std::int64_t graph_size = f.parts * p.graph * p.graph;
    real* adjacency_grad = p.adjacency_grad    ? p.adjacency_grad + b * graph_size
                           : p.adjacency_parts ? p.adjacency_parts + share * graph_size
                                               : nullptr;
    if (p.adjacency_grad) clear(adjacency_grad, graph_size);
    if (p.x_grad) clear(p.x_grad + b * x_size, x_size);
    if (adjacency_grad) clear(work.adjacency_sums, f.parts * f.joints * f.joints * sum_lanes<real>);
    clear(work.g_sums, f.joints * f.out_channels);
    clear(work.scale_sums, f.joints * f.width);
    clear(work.shift_sums, f.joints * f.width);
    for (std::int64_t first = 0; first < f.frames; first += f.block)
        backward_block(p, graph, b, first, f.frames - first < f.block ? f.frames - first : f.block,
                       p.weight_parts ? p.weight_parts + share * gathered * f.out_channels : nullptr);
    if (adjacency_grad) add_adjacency_row(p, graph, adjacency_grad);
    if (p.bias_parts) add_bias_row(p, p.bias_parts + share * f.parts * f.out_channels);
    for (std::int64_t v = 0; v < f.joints; ++v) {
        const std::int64_t to = (share * p.graph + graph.node(v)) * f.channels;
        for (std::int64_t c = 0; p.scale_parts && c < f.channels; ++c)
            p.scale_parts[to + c] += work.scale_sums[v * f.width + c];
        for (std::int64_t c = 0; p.shift_parts && c < f.channels; ++c)
            p.shift_parts[to + c] += work.shift_sums[v * f.width + c];
    }
}

}  // namespace

void graph_conv(const Params& p, std::int64_t begin, std::int64_t end) {
    Graph graph;
    const std::int64_t blocks = (p.frames + p.block - 1) / p.block, frame_size = p.joints * p.out_channels;
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t b = item / blocks, first = item % blocks * p.block;
        const std::int64_t count = p.frames - first < p.block ? p.frames - first : p.block;
        take_graph(p, b, graph);
        Frames read = read_unscaled(p, b, first, count, p.work.read);
        if (p.scale) read = scale_and_shift(p, graph, read, count, p.work.read);
        gather(p, read, count);
        real* out = p.out + (b * p.frames + first) * frame_size;
        for (std::int64_t t = 0; p.bias && t < count; ++t)
            __builtin_memcpy(out + t * frame_size, p.work.bias_rows,
                             static_cast<std::size_t>(frame_size) * sizeof(real));
        RowProduct product{};
        product.source = p.work.gathered, product.out = out, product.packed = p.packed;
        product.accumulate = p.bias != nullptr;
        product.source_row = p.parts * p.width, product.source_tap = p.width, product.out_row = p.out_channels;
        product.rows = count * p.joints, product.channels = p.channels;
        product.packed_taps = product.taps = p.parts, product.tap_step = 1;
        multiply_rows(product, 0, p.out_channels);
        if (p.work.sums)
            add_channel_sums(out, p.out_channels, product.rows, p.out_channels, p.work.sums,
                             p.work.sums + p.out_channels);
    }
}

void graph_conv_backward(const Backward& p, std::int64_t begin, std::int64_t end) {
    const Params& f = p.forward;
    for (std::int64_t share = begin; share < end; ++share) {
        if (p.weight_parts)
            clear(p.weight_parts + share * f.parts * f.width * f.out_channels, f.parts * f.width * f.out_channels);
        if (p.adjacency_parts)
            clear(p.adjacency_parts + share * f.parts * p.graph * p.graph, f.parts * p.graph * p.graph);
        if (p.bias_parts) clear(p.bias_parts + share * f.parts * f.out_channels, f.parts * f.out_channels);
        if (p.scale_parts) clear(p.scale_parts + share * p.graph * f.channels, p.graph * f.channels);
        if (p.shift_parts) clear(p.shift_parts + share * p.graph * f.channels, p.graph * f.channels);
        Graph graph;
        for (std::int64_t b = f.rows * share / p.shares; b < f.rows * (share + 1) / p.shares; ++b) {
            take_graph(f, b, graph);
            backward_row(p, graph, b, share);
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
