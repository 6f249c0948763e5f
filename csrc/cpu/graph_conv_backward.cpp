// The gradients of the graph convolution (cpu/graph_conv.cpp). x̂ is read and z gathered again instead of keeping them:
//
//   gW[k, o, c]    = Σ_t Σ_w z[t, w, k, c] · g[t, w, o]
//   gz[t, w, k, c] = Σ_o W[k, o, c] · g[t, w, o]
//   gx̂[t, v, c]    = Σ_k Σ_w A[k, v, w] · gz[t, w, k, c]
//   gA[k, v, w]    = Σ_t Σ_c x̂[t, v, c] · gz[t, w, k, c] + Σ_o bias[k, o] · Σ_t g[t, w, o]
#include "cpu/graph_conv_rows.hpp"
#include "cpu/statistics.hpp"

namespace asma::cpu::ASMA_ISA {
namespace {

using Params = GraphConvParams<real>;
using Workspace = GraphConvWorkspace<real>;
using Backward = GraphConvBackwardParams<real>;

// ---- the links of a row: pairs of a source and a target × part that have an entry, by source; then the other pairs
// that the pattern admits ----

void list_links(const Backward& p, const Graph& graph) {
    const Params& f = p.forward;
    const GraphConvLinks<real>& links = f.work.links;
    const GraphConvEntries<real>& from = f.work.from;
    std::int32_t count = 0;
    for (std::int64_t v = 0; v < f.joints; ++v) {
        links.starts[v] = count;
        for (std::int64_t k = 0; k < f.parts; ++k)
            for (std::int32_t e = from.starts[v * f.parts + k]; e < from.starts[v * f.parts + k + 1]; ++e) {
                links.targets[count] = static_cast<std::int32_t>(from.others[e] * f.parts + k);
                links.values[count++] = from.values[e];
            }
    }
    links.starts[f.joints] = count;
    if (!p.pattern) return;
    for (std::int64_t v = 0; v < f.joints; ++v) {
        links.other_starts[v] = count;
        for (std::int64_t k = 0; k < f.parts; ++k) {
            const bool* row = p.pattern + k * p.pattern_part + graph.node(v) * p.pattern_source;
            const real* entries = graph.adjacency + k * f.adjacency_part + graph.node(v) * f.adjacency_source;
            for (std::int64_t w = 0; w < f.joints; ++w)
                if (row[graph.node(w) * p.pattern_target] && entries[graph.node(w) * f.adjacency_target] == 0)
                    links.targets[count++] = static_cast<std::int32_t>(w * f.parts + k);
        }
    }
    links.other_starts[f.joints] = count;
}

// ---- gradients of x̂ and of the adjacency, in the order of their use ----

// What one source of some frames reads and writes. The dots are added lane by lane.
struct Source {
    const real* read;
    const real* grad;
    const std::int32_t* targets;
    const real* values;
    real* out;                                               // gx̂
    real* dots;                                              // (links, sum_lanes)
    std::int64_t read_frame, grad_frame, out_frame, target;  // strides
    std::int64_t frames, columns;
    bool add;  // to what stands in out
};

// gx̂ along `links` entries, or, without Spread, only the dots.
template <class Step, int links, bool Dots, bool Spread> void follow_links(const Source& s) {
    const real* grads[links + 1];
    typename Step::Type values[links + 1], dots[links + 1] = {};
    for (int i = 0; i < links; ++i) {
        grads[i] = s.grad + s.targets[i] * s.target;
        if constexpr (Spread) values[i] = s.values[i] - typename Step::Type{};
    }
    const real* read = s.read;
    real* out = s.out;
    for (std::int64_t t = 0; t < s.frames; ++t) {
        for (std::int64_t c = 0; c < s.columns; c += Step::lanes) {
            typename Step::Type source{}, total{};
            if constexpr (Dots) source = Step::load(read + c);
            if constexpr (Spread)
                if (s.add) total = Step::load(out + c);
#pragma GCC unroll 4
            for (int i = 0; i < links; ++i) {
                const typename Step::Type grad = Step::load(grads[i] + t * s.grad_frame + c);
                if constexpr (Spread) total += values[i] * grad;
                if constexpr (Dots) dots[i] += source * grad;
            }
            if constexpr (Spread) Step::store(out + c, total);
        }
        read += s.read_frame, out += s.out_frame;
    }
    if constexpr (Dots)
        for (int i = 0; i < links; ++i) {
            real* to = s.dots + i * sum_lanes<real>;
            Step::store(to, Step::load(to) + dots[i]);
        }
}

constexpr std::int64_t most_links = 4;  // at a time: their sums stay in registers

template <class Step, bool Dots, bool Spread> void follow_all_links(Source s, std::int64_t links) {
    while (true) {
        const std::int64_t now = links < most_links ? links : most_links;
        if (now == 4)
            follow_links<Step, 4, Dots, Spread>(s);
        else if (now == 3)
            follow_links<Step, 3, Dots, Spread>(s);
        else if (now == 2)
            follow_links<Step, 2, Dots, Spread>(s);
        else if (now == 1)
            follow_links<Step, 1, Dots, Spread>(s);
        else if (Spread)
            follow_links<Step, 0, false, Spread>(s);
        links -= now;
        if (links == 0) return;
        s.targets += now, s.values += now, s.dots += now * sum_lanes<real>, s.add = true;
    }
}

// Where gx̂ of a block goes: (frames, V', width) with these strides.
struct ReadGrad {
    real* first;
    std::int64_t frame, joint;
};

// gx̂ where every entry is there: the frame's gz, part by part, are the weights.
void spread_dense(const Params& p, const ReadGrad& out, std::int64_t frames) {
    RowProduct product{};
    product.source = p.work.from.values, product.packed = p.work.packed_frame;
    product.source_row = p.parts * p.joints, product.source_tap = product.channels = p.joints;
    product.rows = p.joints, product.out_row = out.joint;
    product.packed_taps = product.taps = p.parts, product.tap_step = 1;
    for (std::int64_t t = 0; t < frames; ++t) {
        const real* grad = p.work.gathered_grad + t * p.joints * p.parts * p.width;
        for (std::int64_t n = 0; n < p.width; n += panel_columns) {
            const std::int64_t columns = p.width - n < panel_columns ? p.width - n : panel_columns;
            const std::int64_t padded = panel_width(columns);
            real* to = p.work.packed_frame + n * p.parts * p.joints;
            for (std::int64_t k = 0; k < p.parts; ++k)
                for (std::int64_t w = 0; w < p.joints; ++w, to += padded) {
                    const real* from = grad + (w * p.parts + k) * p.width + n;
                    for (std::int64_t c = 0; c < columns; c += QuadStep::lanes)
                        QuadStep::store(to + c, QuadStep::load(from + c));
                    for (std::int64_t c = columns; c < padded; ++c) to[c] = 0;
                }
        }
        product.out = out.first + t * out.frame;
        multiply_rows(product, 0, p.width);
    }
}

template <class Step> void follow_columns(const Backward& p, const Frames& read, const ReadGrad& out,
                                          std::int64_t frames, std::int64_t begin, std::int64_t columns, bool dots) {
    const Params& f = p.forward;
    const GraphConvLinks<real>& links = f.work.links;
    for (std::int64_t v = 0; v < f.joints; ++v) {
        Source s{};
        s.grad = f.work.gathered_grad + begin, s.out = out.first + v * out.joint + begin;
        s.grad_frame = f.joints * f.parts * f.width, s.out_frame = out.frame, s.target = f.width;
        s.frames = frames, s.columns = columns;
        const std::int64_t first = links.starts[v], count = links.starts[v + 1] - first;
        s.targets = links.targets + first, s.values = links.values + first;
        s.dots = f.work.adjacency_sums + first * sum_lanes<real>;
        if (!dots) {
            follow_all_links<Step, false, true>(s, count);
            continue;
        }
        s.read = read.first + v * read.joint + begin, s.read_frame = read.frame;
        follow_all_links<Step, true, true>(s, count);
        const std::int64_t other = links.other_starts[v];
        s.targets = links.targets + other, s.dots = f.work.adjacency_sums + other * sum_lanes<real>;
        follow_all_links<Step, true, false>(s, links.other_starts[v + 1] - other);
    }
}

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

void dot_everything(const Backward& p, const Frames& read, std::int64_t frames) {
    const std::int64_t width = p.forward.width, wide = wide_part(width);
    if (wide > 0) dot_all<WideStep>(p, read, frames, 0, wide);
    if (wide < width) dot_all<QuadStep>(p, read, frames, wide, width);
}

real dot(const real* a, const real* b, std::int64_t count) {
    Vec sums{};
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) sums += load(a + i) * load(b + i);
    real sum = 0;
    for (int lane = 0; lane < lanes; ++lane) sum += sums[lane];
    for (; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

real add_lanes(const real* sums) {
    real sum = 0;
    for (std::int64_t lane = 0; lane < sum_lanes<real>; ++lane) sum += sums[lane];
    return sum;
}

// gA of a whole row, into `grad` (K, V_graph, V_graph) by node.
void add_adjacency_row(const Backward& p, const Graph& graph, real* grad) {
    const Params& f = p.forward;
    const Workspace& work = f.work;
    for (std::int64_t w = 0; w < f.joints; ++w)
        for (std::int64_t k = 0; k < f.parts; ++k)
            work.bias_dots[w * f.parts + k] =
                f.bias ? dot(f.bias + k * f.out_channels, work.g_sums + w * f.out_channels, f.out_channels) : 0;
    auto add = [&](std::int64_t v, std::int64_t target, const real* sums) {
        const std::int64_t k = target % f.parts, w = target / f.parts;
        grad[(k * p.forward.graph + graph.node(v)) * p.forward.graph + graph.node(w)] +=
            add_lanes(sums) + work.bias_dots[target];
    };
    for (std::int64_t v = 0; v < f.joints; ++v) {
        if (!p.pattern) {
            for (std::int64_t target = 0; target < f.joints * f.parts; ++target)
                add(v, target,
                    work.adjacency_sums +
                        ((target % f.parts * f.joints + v) * f.joints + target / f.parts) * sum_lanes<real>);
            continue;
        }
        for (std::int64_t e = work.links.starts[v]; e < work.links.starts[v + 1]; ++e)
            add(v, work.links.targets[e], work.adjacency_sums + e * sum_lanes<real>);
        for (std::int64_t e = work.links.other_starts[v]; e < work.links.other_starts[v + 1]; ++e)
            add(v, work.links.targets[e], work.adjacency_sums + e * sum_lanes<real>);
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

// From gx̂ of one frame to the gradients of scale, shift and x.
void take_read_grad(const Backward& p, const Graph& graph, const Frames& unscaled, std::int64_t b, std::int64_t first,
                    std::int64_t t) {
    const Params& f = p.forward;
    const ViewMaps<real>& view = f.view;
    const std::int64_t n = b / f.bodies;
    const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
    const std::int64_t frame = view.frames ? view.frames[n * view.frames_stride + first + t] : first + t;
    for (std::int64_t v = 0; v < f.joints; ++v) {
        real* grad = f.work.read_grad + (t * f.joints + v) * f.width;
        const real* read = unscaled.first + t * unscaled.frame + v * unscaled.joint;
        real* scale_sums = f.work.scale_sums + v * f.width;
        real* shift_sums = f.work.shift_sums + v * f.width;
        for (std::int64_t c = 0; c < f.width; c += QuadStep::lanes) {
            const QuadStep::Type number = QuadStep::load(grad + c);
            if (p.scale_parts)
                QuadStep::store(scale_sums + c, QuadStep::load(scale_sums + c) + number * QuadStep::load(read + c));
            if (p.shift_parts) QuadStep::store(shift_sums + c, QuadStep::load(shift_sums + c) + number);
        }
        if (!p.x_grad) continue;
        if (f.scale)
            for (std::int64_t c = 0; c < f.channels; ++c) grad[c] *= f.scale[graph.node(v) * f.channels + c];
        real* to = p.x_grad + ((b * p.x_frames + frame) * p.x_joints + (joints ? joints[v] : v)) * f.channels;
        add_transposed_joint(grad, 1, to, view.transform + n * view.transform_stride, view.dims, f.channels);
    }
}

// Whether gx̂ is gx where it stands.
bool reads_in_place(const Params& f) {
    return !f.view.frames && !f.view.joints && !f.view.transform && !f.scale && f.channels == f.width;
}

// Σ_t g of a block, joined to what stands there.
void sum_frames(const real* g, std::int64_t frames, std::int64_t size, real* sums) {
    std::int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        Vec sum = load(sums + i);
        for (std::int64_t t = 0; t < frames; ++t) sum += load(g + t * size + i);
        store(sums + i, sum);
    }
    for (; i < size; ++i)
        for (std::int64_t t = 0; t < frames; ++t) sums[i] += g[t * size + i];
}

// gx̂ and the dots of a block; `read` is not looked at where no dots are wanted.
void backward_read(const Backward& p, const Graph& graph, const Frames& unscaled, const Frames& read, std::int64_t b,
                   std::int64_t first, std::int64_t count) {
    const Params& f = p.forward;
    const bool adjacency_wanted = p.adjacency_parts || p.adjacency_grad;
    const bool in_place = p.x_grad && reads_in_place(f);
    const std::int64_t frame = f.joints * f.width, wide = wide_part(f.width);
    const ReadGrad out{in_place ? p.x_grad + (b * f.frames + first) * frame : f.work.read_grad, frame, f.width};
    if (adjacency_wanted && !p.pattern) dot_everything(p, read, count);
    const bool dots = adjacency_wanted && p.pattern, read_wanted = p.x_grad || p.scale_parts || p.shift_parts;
    if (!dots && !read_wanted) return;
    if (!p.pattern && is_dense(f, f.work.from)) {
        spread_dense(f, out, count);
    } else {
        if (wide > 0) follow_columns<WideStep>(p, read, out, count, 0, wide, dots);
        if (wide < f.width) follow_columns<QuadStep>(p, read, out, count, wide, f.width - wide, dots);
    }
    if (!read_wanted || in_place) return;
    for (std::int64_t t = 0; t < count; ++t) take_read_grad(p, graph, unscaled, b, first, t);
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
    const bool adjacency_wanted = p.adjacency_parts || p.adjacency_grad;
    Frames unscaled{}, read{};
    if (weight_grad || adjacency_wanted || p.scale_parts) {
        unscaled = read = read_unscaled(f, b, first, count, work.unscaled);
        if (f.scale) read = scale_and_shift(f, graph, unscaled, count, work.read);
    }
    if (weight_grad) {
        gather(f, read, count, f.width);
        accumulate_outer(
            {work.gathered, g, weight_grad, gathered, f.out_channels, f.out_channels, count * f.joints, gathered}, 0,
            f.out_channels);
    }
    if (p.bias_parts || (f.bias && adjacency_wanted)) sum_frames(g, count, f.joints * f.out_channels, work.g_sums);
    if (!adjacency_wanted && !p.x_grad && !p.scale_parts && !p.shift_parts) return;
    if (unscaled.first && unscaled.first != work.unscaled && unscaled.joint == f.width)
        prefetch_block(f, unscaled, count, first + count + f.block < f.frames ? count + f.block : f.frames - first);
    RowProduct product{};
    product.source = g, product.out = work.gathered_grad, product.packed = p.packed_transposed;
    product.source_row = f.out_channels, product.out_row = gathered;
    product.rows = count * f.joints, product.channels = f.out_channels;
    product.packed_taps = product.tap_step = product.taps = 1;
    multiply_rows(product, 0, gathered);
    backward_read(p, graph, unscaled, read, b, first, count);
}

// The gradients of row b, all its frames.
void backward_row(const Backward& p, const Graph& graph, std::int64_t b, std::int64_t share) {
    const Params& f = p.forward;
    const Workspace& work = f.work;
    const std::int64_t gathered = f.parts * f.width, x_size = p.x_frames * p.x_joints * f.channels;
    const std::int64_t graph_size = f.parts * f.graph * f.graph;
    real* adjacency_grad = p.adjacency_grad    ? p.adjacency_grad + b * graph_size
                           : p.adjacency_parts ? p.adjacency_parts + share * graph_size
                                               : nullptr;
    if (p.adjacency_grad) clear(adjacency_grad, graph_size);
    if (p.x_grad && !reads_in_place(f)) clear(p.x_grad + b * x_size, x_size);
    if (adjacency_grad)
        clear(work.adjacency_sums,
              (p.pattern ? work.links.other_starts[f.joints] : f.parts * f.joints * f.joints) * sum_lanes<real>);
    clear(work.g_sums, f.joints * f.out_channels);
    clear(work.scale_sums, f.joints * f.width);
    clear(work.shift_sums, f.joints * f.width);
    for (std::int64_t first = 0; first < f.frames; first += f.block)
        backward_block(p, graph, b, first, f.frames - first < f.block ? f.frames - first : f.block,
                       p.weight_parts ? p.weight_parts + share * gathered * f.out_channels : nullptr);
    if (adjacency_grad) add_adjacency_row(p, graph, adjacency_grad);
    if (p.bias_parts) add_bias_row(p, p.bias_parts + share * f.parts * f.out_channels);
    for (std::int64_t v = 0; v < f.joints; ++v) {
        const std::int64_t to = (share * f.graph + graph.node(v)) * f.channels;
        for (std::int64_t c = 0; p.scale_parts && c < f.channels; ++c)
            p.scale_parts[to + c] += work.scale_sums[v * f.width + c];
        for (std::int64_t c = 0; p.shift_parts && c < f.channels; ++c)
            p.shift_parts[to + c] += work.shift_sums[v * f.width + c];
    }
}

}  // namespace

void graph_conv_backward(const Backward& p, std::int64_t begin, std::int64_t end) {
    const Params& f = p.forward;
    for (std::int64_t share = begin; share < end; ++share) {
        if (p.weight_parts)
            clear(p.weight_parts + share * f.parts * f.width * f.out_channels, f.parts * f.width * f.out_channels);
        if (p.adjacency_parts)
            clear(p.adjacency_parts + share * f.parts * f.graph * f.graph, f.parts * f.graph * f.graph);
        if (p.bias_parts) clear(p.bias_parts + share * f.parts * f.out_channels, f.parts * f.out_channels);
        if (p.scale_parts) clear(p.scale_parts + share * f.graph * f.channels, f.graph * f.channels);
        if (p.shift_parts) clear(p.shift_parts + share * f.graph * f.channels, f.graph * f.channels);
        Graph graph;
        for (std::int64_t b = f.rows * share / p.shares; b < f.rows * (share + 1) / p.shares; ++b) {
            if (take_graph(f, b, graph, f.width)) list_links(p, graph);
            backward_row(p, graph, b, share);
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
