// What both directions of the graph convolution share: the graph of a row, reading x̂, gathering z.
#pragma once

#include "cpu/graph_conv.hpp"
#include "cpu/micro_kernel.hpp"
#include "cpu/simd.hpp"
#include "cpu/transform_joint.hpp"

namespace asma::cpu::ASMA_ISA {

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

static_assert(lanes <= sum_lanes<real> && lanes % joint_padding<real> == 0);

static inline std::int64_t wide_part(std::int64_t width) {
    return width / lanes * lanes;
}

static inline void clear(real* to, std::int64_t count) {
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
static inline void scan_entries(const GraphConvParams<real>& p, const Graph& graph, const GraphConvEntries<real>& lists,
                                std::int64_t joint_stride, std::int64_t other_stride) {
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

// The same from the lists of the whole graph, by the joints that play its nodes.
static inline void pick_entries(const GraphConvParams<real>& p, const Graph& graph, const GraphConvEntries<real>& whole,
                                const GraphConvEntries<real>& lists) {
    const GraphConvWorkspace<real>& work = p.work;
    std::int32_t count = 0;
    for (std::int64_t joint = 0; joint < p.joints; ++joint)
        for (std::int64_t k = 0; k < p.parts; ++k) {
            const std::int64_t list = graph.node(joint) * p.parts + k;
            lists.starts[joint * p.parts + k] = count;
            for (std::int32_t e = whole.starts[list]; e < whole.starts[list + 1]; ++e)
                for (std::int32_t v = work.first_joints[whole.others[e]]; v >= 0; v = work.next_joints[v]) {
                    lists.others[count] = v;
                    lists.values[count++] = whole.values[e];
                }
        }
    lists.starts[p.joints * p.parts] = count;
}

// Whether every entry is there, as a learned adjacency's are: aggregation is then a product with it. The lists of a
// joint hold its row of the matrix, in the order of the joints.
static inline bool is_dense(const GraphConvParams<real>& p, const GraphConvEntries<real>& lists) {
    constexpr std::int64_t fewest_joints = 8;
    return p.joints >= fewest_joints && p.channels == p.width &&
           lists.starts[p.joints * p.parts] == p.parts * p.joints * p.joints;
}

static inline void list_graph(const GraphConvParams<real>& p, const Graph& graph) {
    const GraphConvWorkspace<real>& work = p.work;
    if (!p.whole_into.starts) {
        scan_entries(p, graph, work.into, p.adjacency_target, p.adjacency_source);
        if (work.from.starts) scan_entries(p, graph, work.from, p.adjacency_source, p.adjacency_target);
        return;
    }
    for (std::int64_t node = 0; node < p.graph; ++node) work.first_joints[node] = -1;
    for (std::int64_t joint = p.joints - 1; joint >= 0; --joint) {
        work.next_joints[joint] = work.first_joints[graph.node(joint)];
        work.first_joints[graph.node(joint)] = static_cast<std::int32_t>(joint);
    }
    pick_entries(p, graph, p.whole_into, work.into);
    if (work.from.starts) pick_entries(p, graph, p.whole_from, work.from);
    if (!graph.nodes || !is_dense(p, work.into)) return;
    scan_entries(p, graph, work.into, p.adjacency_target, p.adjacency_source);
    if (work.from.starts) scan_entries(p, graph, work.from, p.adjacency_source, p.adjacency_target);
}

static inline bool has_entries(const GraphConvWorkspace<real>& work, std::int64_t target_part) {
    return work.into.starts[target_part + 1] > work.into.starts[target_part];
}

static inline void sum_bias(const GraphConvParams<real>& p) {
    const GraphConvWorkspace<real>& work = p.work;
    clear(work.bias_rows, p.joints * p.out_channels);
    for (std::int64_t w = 0; w < p.joints; ++w)
        for (std::int64_t k = 0; k < p.parts; ++k) {
            if (!has_entries(work, w * p.parts + k)) continue;
            const real sum = work.entry_sums[w * p.parts + k];
            real* to = work.bias_rows + w * p.out_channels;
            for (std::int64_t o = 0; o < p.out_channels; ++o) to[o] += sum * p.bias[k * p.out_channels + o];
        }
}

// Targets without an entry stay zero in z while the graph stands.
static inline void clear_lone_targets(const GraphConvParams<real>& p, std::int64_t part) {
    for (std::int64_t w = 0; w < p.joints; ++w)
        for (std::int64_t k = 0; k < p.parts; ++k)
            if (!has_entries(p.work, w * p.parts + k))
                for (std::int64_t t = 0; t < p.block; ++t)
                    clear(p.work.gathered + (t * p.joints + w) * p.parts * p.width + k * part, part);
}

// Whether row b has another graph than the row before it, which is then listed. `part` as in gather.
static inline bool take_graph(const GraphConvParams<real>& p, std::int64_t b, Graph& graph, std::int64_t part) {
    const real* adjacency = p.adjacency + b * p.adjacency_row;
    const std::int32_t* nodes = p.nodes ? p.nodes + b / p.rows_per_nodes * p.nodes_stride : nullptr;
    if (graph.known && adjacency == graph.adjacency && nodes == graph.nodes) return false;
    graph = {adjacency, nodes, true};
    list_graph(p, graph);
    for (std::int64_t target = 0; target < p.joints * p.parts; ++target) {
        p.work.entry_sums[target] = 0;
        for (std::int32_t e = p.work.into.starts[target]; e < p.work.into.starts[target + 1]; ++e)
            p.work.entry_sums[target] += p.work.into.values[e];
    }
    if (p.bias && p.work.bias_rows) sum_bias(p);
    clear_lone_targets(p, part);
    return true;
}

// ---- reading x̂ ----

struct Frames {
    const real* first;
    std::int64_t frame, joint;  // strides
};

// Into `to`, which may be where they come from.
static inline Frames scale_and_shift(const GraphConvParams<real>& p, const Graph& graph, const Frames& from,
                                     std::int64_t count, real* to) {
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
static inline Frames read_unscaled(const GraphConvParams<real>& p, std::int64_t b, std::int64_t first,
                                   std::int64_t count, real* buffer) {
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

// x̂ of the frames where a joint is one quad: x̂ = Σ_c column[v, c] · x[c] + shift[v], the columns those of the scaled
// transform.
static inline void prepare_quads(const GraphConvParams<real>& p, const Graph& graph, std::int64_t b) {
    constexpr std::int64_t quad = joint_padding<real>;
    const ViewMaps<real>& view = p.view;
    const real* transform = view.transform + b / p.bodies * view.transform_stride;
    clear(p.work.columns, p.joints * (quad + 1) * quad);
    for (std::int64_t v = 0; v < p.joints; ++v) {
        real* columns = p.work.columns + v * (quad + 1) * quad;
        for (std::int64_t e = 0; e < p.channels; ++e) {
            const real scale = p.scale ? p.scale[graph.node(v) * p.channels + e] : 1;
            columns[quad * quad + e] = p.shift ? p.shift[graph.node(v) * p.channels + e] : 0;
            if (e >= view.dims) columns[e * quad + e] = scale;
            for (std::int64_t c = 0; e < view.dims && c < view.dims; ++c)
                columns[c * quad + e] = scale * transform[e * view.dims + c];
        }
    }
}

template <int fixed_channels> static inline Frames read_quads(const GraphConvParams<real>& p, std::int64_t b,
                                                              std::int64_t first, std::int64_t count) {
    constexpr std::int64_t quad = joint_padding<real>;
    const ViewMaps<real>& view = p.view;
    const std::int64_t n = b / p.bodies, channels = fixed_channels > 0 ? fixed_channels : p.channels;
    const real* body = p.x + n * p.x_clip + b % p.bodies * p.x_body;
    const std::int32_t* frames = view.frames ? view.frames + n * view.frames_stride : nullptr;
    const std::int32_t* joints = view.joints ? view.joints + n * view.joints_stride : nullptr;
    real* to = p.work.read;
    for (std::int64_t t = 0; t < count; ++t) {
        const real* frame = body + (frames ? frames[first + t] : first + t) * p.x_frame;
        const real* columns = p.work.columns;
        for (std::int64_t v = 0; v < p.joints; ++v) {
            const real* from = frame + (joints ? joints[v] : v) * p.x_joint;
            QuadStep::Type sum = QuadStep::load(columns + quad * quad);
            for (std::int64_t c = 0; c < channels; ++c)
                sum += from[c * p.x_channel] * QuadStep::load(columns + c * quad);
            QuadStep::store(to, sum);
            to += quad, columns += (quad + 1) * quad;
        }
    }
    return {p.work.read, p.joints * quad, quad};
}

// ---- gathering ----

// One target of `count` frames: Σ of the entries' values times their sources. Most targets have one entry or two:
// `fixed` names them at compile time; 0 does not. `columns`: so many; 0: as many as `width` says.
template <class Step, int fixed, int columns>
static inline void gather_target(const Frames& read, const std::int32_t* others, const real* values,
                                 std::int64_t entries, std::int64_t count, std::int64_t width, real* to,
                                 std::int64_t to_frame) {
    if constexpr (fixed > 0) entries = fixed;
    if constexpr (columns > 0) width = columns;
    const real* first = read.first + others[0] * read.joint;
    const real* second = read.first + others[fixed == 1 ? 0 : 1] * read.joint;
    const typename Step::Type first_value = values[0] - typename Step::Type{};
    const typename Step::Type second_value = values[fixed == 1 ? 0 : 1] - typename Step::Type{};
    for (std::int64_t t = 0; t < count; ++t) {
        for (std::int64_t c = 0; c < width; c += Step::lanes) {
            typename Step::Type sum = first_value * Step::load(first + c);
            if constexpr (fixed != 1) sum += second_value * Step::load(second + c);
            for (std::int64_t e = 2; e < entries; ++e)
                sum += values[e] * Step::load(read.first + t * read.frame + others[e] * read.joint + c);
            Step::store(to + c, sum);
        }
        first += read.frame, second += read.frame, to += to_frame;
    }
}

// z of the columns from `begin`, `width` of them; `part` as below.
template <class Step, int columns> static inline void gather_columns(const GraphConvParams<real>& p, Frames read,
                                                                     std::int64_t count, std::int64_t part,
                                                                     std::int64_t begin, std::int64_t width) {
    const GraphConvEntries<real>& into = p.work.into;
    const std::int64_t to_frame = p.joints * p.parts * p.width;
    read.first += begin;
    for (std::int64_t target = 0; target < p.joints * p.parts; ++target) {
        const std::int32_t first = into.starts[target], entries = into.starts[target + 1] - first;
        if (entries == 0) continue;
        const std::int32_t* others = into.others + first;
        const real* values = into.values + first;
        real* to = p.work.gathered + target / p.parts * p.parts * p.width + target % p.parts * part + begin;
        if (entries == 1)
            gather_target<Step, 1, columns>(read, others, values, entries, count, width, to, to_frame);
        else if (entries == 2)
            gather_target<Step, 2, columns>(read, others, values, entries, count, width, to, to_frame);
        else
            gather_target<Step, 0, columns>(read, others, values, entries, count, width, to, to_frame);
    }
}

// Rows of a frame, `joint` apart, as multiply_rows reads weights: where they stand, if they lie so.
static inline const real* pack_rows(const real* rows, std::int64_t joint, std::int64_t count, std::int64_t width,
                                    real* packed) {
    if (width <= panel_columns && width == joint && width == panel_width(width)) return rows;
    for (std::int64_t n = 0; n < width; n += panel_columns) {
        const std::int64_t columns = width - n < panel_columns ? width - n : panel_columns;
        const std::int64_t padded = panel_width(columns);
        real* to = packed + n * count;
        for (std::int64_t row = 0; row < count; ++row, to += padded) {
            const real* from = rows + row * joint + n;
            for (std::int64_t c = 0; c < columns; c += QuadStep::lanes)
                QuadStep::store(to + c, QuadStep::load(from + c));
            for (std::int64_t c = columns; c < padded; ++c) to[c] = 0;
        }
    }
    return packed;
}

// z where every entry is there.
static inline void gather_dense(const GraphConvParams<real>& p, const Frames& read, std::int64_t count) {
    RowProduct product{};
    product.source = p.work.into.values, product.source_row = product.channels = p.joints;
    product.rows = p.joints * p.parts, product.out_row = p.width;
    product.packed_taps = product.tap_step = product.taps = 1;
    for (std::int64_t t = 0; t < count; ++t) {
        product.packed = pack_rows(read.first + t * read.frame, read.joint, p.joints, p.width, p.work.packed_frame);
        product.out = p.work.gathered + t * product.rows * p.width;
        multiply_rows(product, 0, p.width);
    }
}

// Whether gather stores each part of a joint in one go.
static inline bool in_one_pass(std::int64_t width) {
    return width % lanes == 0 || width < lanes;
}

// z, the parts of a joint `part` numbers apart: its width, or, in one pass, its channels: the padding of a part is then
// overwritten by the next.
static inline void gather(const GraphConvParams<real>& p, const Frames& read, std::int64_t count, std::int64_t part) {
    constexpr int one = lanes, two = 2 * lanes, quad = joint_padding<real>;
    const std::int64_t wide = wide_part(p.width);
    if (is_dense(p, p.work.into)) return gather_dense(p, read, count);
    if (wide == one)
        gather_columns<WideStep, one>(p, read, count, part, 0, wide);
    else if (wide == two)
        gather_columns<WideStep, two>(p, read, count, part, 0, wide);
    else if (wide > 0)
        gather_columns<WideStep, 0>(p, read, count, part, 0, wide);
    if (p.width - wide == quad)
        gather_columns<QuadStep, quad>(p, read, count, part, wide, quad);
    else if (wide < p.width)
        gather_columns<QuadStep, 0>(p, read, count, part, wide, p.width - wide);
}

// Asks for a block's joints ahead of its turn, where they will be read in place: gathering jumps from joint to joint.
static inline void prefetch_block(const GraphConvParams<real>& p, const Frames& read, std::int64_t begin,
                                  std::int64_t end) {
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(real));
    const std::int64_t size = (p.joints - 1) * read.joint + p.width;
    for (std::int64_t t = begin; t < end; ++t)
        for (std::int64_t i = 0; i < size; i += line) __builtin_prefetch(read.first + t * read.frame + i, 0, 2);
}

}  // namespace asma::cpu::ASMA_ISA
