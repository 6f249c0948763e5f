#include "cpu/graph_conv.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/view_maps.hpp"
#include "core/parallel.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/packing.hpp"
#include "cpu/temporal_conv.hpp"

namespace asma::bindings {
namespace {

using Maybe = std::optional<Array>;

constexpr std::int64_t piece_products = 1 << 20;  // multiply-adds worth a workspace and a thread's while
constexpr std::int64_t most_shares = 32;          // partial sums of a gradient, as far as the batch gives them

template <class Real> const Real* data_or_null(const Maybe& array, const char* what) {
    return array ? array->data<const Real>(what) : nullptr;
}

// The arguments that both directions share, in the op's order.
struct Arguments {
    const Array& x;
    const Array& weight;
    const Array& adjacency;
    const Maybe& bias;
    const Maybe& frames;
    const Maybe& joints;
    const Maybe& nodes;
    const Maybe& transform;
    const Maybe& scale;
    const Maybe& shift;
    const Maybe& pattern;

    bool clip() const { return x.rank == 5; }
    bool row_adjacency() const { return adjacency.rank == 4; }
    std::int64_t parts() const { return weight.size(0); }
    std::int64_t out_channels() const { return weight.size(1); }
    std::int64_t channels() const { return weight.size(2); }
    std::int64_t graph() const { return adjacency.size(adjacency.rank - 1); }
};

std::string place(std::int64_t row, std::int64_t k, std::int64_t v, std::int64_t w, bool with_row) {
    return (with_row ? "(" + std::to_string(row) + ", " : "(") + std::to_string(k) + ", " + std::to_string(v) + ", " +
           std::to_string(w) + ")";
}

template <class Real> void check_pattern(const Arguments& a) {
    const bool* pattern = a.pattern->data<const bool>("pattern");
    const Real* adjacency = a.adjacency.data<const Real>("adjacency");
    const int first = a.row_adjacency() ? 1 : 0;
    // A broadcast row need be looked at once.
    const std::int64_t rows = a.row_adjacency() && a.adjacency.stride(0) != 0 ? a.adjacency.size(0) : 1;
    if (a.adjacency.count() == 0) return;
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t k = 0; k < a.parts(); ++k)
            for (std::int64_t v = 0; v < a.graph(); ++v)
                for (std::int64_t w = 0; w < a.graph(); ++w) {
                    const Real entry =
                        adjacency[(first ? row * a.adjacency.stride(0) : 0) + k * a.adjacency.stride(first) +
                                  v * a.adjacency.stride(first + 1) + w * a.adjacency.stride(first + 2)];
                    const bool inside =
                        pattern[k * a.pattern->stride(0) + v * a.pattern->stride(1) + w * a.pattern->stride(2)];
                    if (entry != 0 && !inside)
                        throw py::value_error("adjacency must be zero outside pattern, got " + std::to_string(entry) +
                                              " at " + place(row, k, v, w, first == 1));
                }
}

// Frames in work at a time: rows enough that the weights, read from the second cache, are shared by many.
std::int64_t block_frames(std::int64_t frames, std::int64_t joints) {
    constexpr std::int64_t wanted_rows = 128;
    return std::max<std::int64_t>(1, std::min(frames, wanted_rows / std::max<std::int64_t>(1, joints)));
}

// A parameter, or a gradient, of those sizes in C order, where it is given.
void check_parameter(const Maybe& array, std::initializer_list<std::int64_t> sizes, const char* what) {
    if (!array) return;
    check_sizes(*array, sizes, what);
    const bool dense = sizes.size() == 2 ? array->dense({0, 1})
                                         : (sizes.size() == 3 ? array->dense({0, 1, 2}) : array->dense({0, 1, 2, 3}));
    if (!dense) throw py::value_error(std::string(what) + " must be dense");
}

// What the kernels read without looking: the ranks and sizes of the parameters, after those of x and the result.
void check_parameters(const Arguments& a) {
    if (a.x.rank != 4 && a.x.rank != 5) throw py::value_error("x must be a map of rank 4 or a clip of rank 5");
    if (a.weight.rank != 3 || a.weight.size(2) != a.x.size(1) || !a.weight.dense({0, 1, 2}))
        throw py::value_error("weight must be dense, of shape (K, C_out, C)");
    const std::int64_t k = a.parts(), graph = a.graph();
    if (a.row_adjacency())
        check_sizes(a.adjacency, {a.x.size(0) * (a.clip() ? a.x.size(4) : 1), k, graph, graph}, "adjacency");
    else
        check_sizes(a.adjacency, {k, graph, graph}, "adjacency");
    if (a.pattern) check_sizes(*a.pattern, {k, graph, graph}, "pattern");
    check_parameter(a.bias, {k, a.out_channels()}, "bias");
    check_parameter(a.scale, {graph, a.channels()}, "scale");
    check_parameter(a.shift, {graph, a.channels()}, "shift");
    if (bool(a.scale) != bool(a.shift)) throw py::value_error("scale and shift must be given together");
}

// Everything but the weights, the result and the workspace; checks what indexes memory. `out` is the result, or its
// gradient.
template <class Real>
cpu::GraphConvParams<Real> forward_params(const Arguments& a, const Array& out, const char* what) {
    check_parameters(a);
    check_sizes(out,
                {a.x.size(0) * (a.clip() ? a.x.size(4) : 1), a.out_channels(),
                 a.frames ? a.frames->size(1) : a.x.size(2), a.joints ? a.joints->size(1) : a.x.size(3)},
                what);
    if (!out.dense({0, 2, 3, 1})) throw py::value_error(std::string(what) + " must lie channels last");
    cpu::GraphConvParams<Real> p{};
    p.x = a.x.data<const Real>("x");
    p.x_clip = a.x.stride(0), p.x_channel = a.x.stride(1), p.x_frame = a.x.stride(2), p.x_joint = a.x.stride(3);
    p.x_body = a.clip() ? a.x.stride(4) : 0;
    p.bodies = a.clip() ? a.x.size(4) : 1;
    p.rows = out.size(0), p.out_channels = out.size(1), p.frames = out.size(2), p.joints = out.size(3);
    p.channels = a.channels(), p.parts = a.parts(), p.graph = a.graph();
    // The kernels count the entries of a row's adjacency in 32 bits.
    if (checked_product({p.parts, p.joints, p.joints}) > std::numeric_limits<std::int32_t>::max())
        throw py::value_error("K · V'² must be below 2^31, got K=" + std::to_string(p.parts) +
                              " and V'=" + std::to_string(p.joints));
    constexpr std::int64_t padding = cpu::joint_padding<Real>;
    p.width = (p.channels + padding - 1) / padding * padding;
    p.block = block_frames(p.frames, p.joints);
    p.view = view_maps<Real>(a.frames, a.joints, a.transform, a.x.size(2), a.x.size(3));
    if (a.nodes) {
        const char* name = a.clip() ? "view.nodes" : "nodes";
        const std::int64_t rows = a.nodes->size(0);
        const bool fits = a.clip() ? rows == 1 || rows == a.x.size(0) : (rows ? p.rows % rows : p.rows) == 0;
        if (a.nodes->rank != 2 || a.nodes->size(1) != p.joints || !fits)
            throw py::value_error(std::string(name) + " must have the joints of x and rows that divide its rows");
        check_dense(*a.nodes, name);
        check_indices(*a.nodes, a.graph(), name);
        p.nodes = a.nodes->template data<const std::int32_t>(name);
        p.nodes_stride = row_stride(*a.nodes);
        p.rows_per_nodes = std::max<std::int64_t>(1, p.rows / std::max<std::int64_t>(1, rows));
    }
    p.scale = data_or_null<Real>(a.scale, "scale");
    p.shift = data_or_null<Real>(a.shift, "shift");
    p.bias = data_or_null<Real>(a.bias, "bias");
    if (a.pattern) check_pattern<Real>(a);
    const int first = a.row_adjacency() ? 1 : 0;
    p.adjacency = a.adjacency.data<const Real>("adjacency");
    p.adjacency_row = a.row_adjacency() ? a.adjacency.stride(0) : 0;
    p.adjacency_part = a.adjacency.stride(first);
    p.adjacency_source = a.adjacency.stride(first + 1), p.adjacency_target = a.adjacency.stride(first + 2);
    return p;
}

// weights, by their strides (column, channel, tap), → as multiply_rows reads them.
template <class Real> void pack(const cpu::KernelTable<Real>& kernels, const Real* weights, std::int64_t columns,
                                std::int64_t channels, std::int64_t taps, const std::array<std::int64_t, 3>& strides,
                                Real* packed) {
    cpu::TemporalConvPackParams<Real> p{};
    p.weight = weights, p.packed = packed;
    p.sizes.groups = 1, p.sizes.columns = columns, p.sizes.channels = channels, p.sizes.taps = taps;
    p.column_stride = strides[0], p.channel_stride = strides[1], p.tap_stride = strides[2];
    constexpr std::int64_t numbers_a_piece = 1 << 14;
    const std::int64_t slab = std::max<std::int64_t>(1, cpu::slab_columns * channels * taps);
    parallel_for(cpu::slabs(columns), std::max<std::int64_t>(1, numbers_a_piece / slab),
                 [&](std::int64_t begin, std::int64_t end) { kernels.temporal_conv_pack(p, begin, end); });
}

// Cuts the workspace of one thread from `reals`, each part at a cache line; with null, only measures it. `with_sums`:
// the backward pass of a result whose sums were taken.
template <class Real> std::int64_t lay_out(const cpu::GraphConvParams<Real>& p, bool backward, bool with_sums,
                                           Real* reals, cpu::GraphConvWorkspace<Real>& work) {
    constexpr std::int64_t line = cpu::sum_lanes<Real>;
    std::int64_t used = 0;
    auto take = [&](Real*& part, std::int64_t count) {
        part = reals ? reals + used : nullptr;
        used = checked_sum(used, checked_sum(count, line - 1) / line * line);
    };
    const std::int64_t read = checked_product({p.block, p.joints, p.width}), entries = p.parts * p.joints * p.joints;
    const std::int64_t gathered = checked_product({read, p.parts}), one_frame = checked_product({p.joints, p.width});
    const std::int64_t results = checked_product({p.joints, p.out_channels});
    take(work.read, read);
    take(work.gathered, gathered);
    take(work.packed_frame, checked_product({backward ? p.parts : 1, p.joints, cpu::packed_columns(p.width)}));
    take(work.into.values, entries);
    take(work.entry_sums, p.joints * p.parts);
    if (!backward) {
        take(work.bias_rows, results);
        take(work.columns, p.joints * (cpu::joint_padding<Real> + 1) * cpu::joint_padding<Real>);
        return used;
    }
    take(work.from.values, entries);
    take(work.unscaled, read);
    take(work.gathered_grad, gathered);
    take(work.links.values, entries);
    take(work.read_grad, read);
    take(work.summed_grad, with_sums ? checked_product({p.block, results}) : 0);
    take(work.g_sums, results);
    take(work.bias_dots, p.joints * p.parts);
    take(work.adjacency_sums, entries * cpu::sum_lanes<Real>);
    take(work.scale_sums, one_frame);
    take(work.shift_sums, one_frame);
    return used;
}

// Cuts the lists of one thread, which count entries, joints and nodes.
template <class Real> std::int64_t lay_out_lists(const cpu::GraphConvParams<Real>& p, bool backward,
                                                 std::int32_t* lists, cpu::GraphConvWorkspace<Real>& work) {
    const std::int64_t starts = p.joints * p.parts + 1, entries = p.parts * p.joints * p.joints;
    std::int64_t used = 0;
    auto take = [&](std::int32_t*& part, std::int64_t count) {
        part = lists ? lists + used : nullptr;
        used = checked_sum(used, count);
    };
    take(work.into.starts, starts);
    take(work.into.others, entries);
    take(work.first_joints, p.graph);
    take(work.next_joints, p.joints);
    if (!backward) return used;
    take(work.from.starts, starts);
    take(work.from.others, entries);
    take(work.links.starts, p.joints + 1);
    take(work.links.other_starts, p.joints + 1);
    take(work.links.targets, entries);
    return used;
}

// Calls body(params with a workspace, begin, end) over [0, items) in pieces of `grain`.
template <class Real, class Body> void for_pieces(const cpu::GraphConvParams<Real>& p, bool backward, bool with_sums,
                                                  std::int64_t items, std::int64_t grain, Body&& body) {
    cpu::GraphConvWorkspace<Real> measured{};
    const std::int64_t reals = lay_out<Real>(p, backward, with_sums, nullptr, measured);
    const std::int64_t indices = lay_out_lists<Real>(p, backward, nullptr, measured);
    parallel_for(items, std::max<std::int64_t>(1, grain), [&](std::int64_t begin, std::int64_t end) {
        Scratch<Real> memory(reals);
        Scratch<std::int32_t> lists(indices);
        cpu::GraphConvParams<Real> piece = p;
        lay_out<Real>(p, backward, with_sums, memory.data(), piece.work);
        lay_out_lists<Real>(p, backward, lists.data(), piece.work);
        body(piece, begin, end);
    });
}

// The entries of a graph that all rows share, listed once. Rows pick theirs, as long as the graph is not much larger.
template <class Real> class WholeGraph {
public:
    WholeGraph(cpu::GraphConvParams<Real>& p, bool backward)
        : wanted_(p.adjacency_row == 0 && p.rows > 0 && p.graph <= 2 * p.joints &&
                  p.parts <= std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(1, p.graph * p.graph)),
          starts_(p.graph * p.parts + 1),
          indices_(wanted_ ? (backward ? 2 : 1) * (starts_ + p.parts * p.graph * p.graph) : 0),
          values_(wanted_ ? (backward ? 2 : 1) * p.parts * p.graph * p.graph : 0) {
        if (!wanted_) return;
        const std::int64_t entries = p.parts * p.graph * p.graph;
        p.whole_into = {indices_.data(), indices_.data() + starts_, values_.data()};
        list(p, p.adjacency_target, p.adjacency_source, p.whole_into);
        if (!backward) return;
        std::int32_t* second = indices_.data() + starts_ + entries;
        p.whole_from = {second, second + starts_, values_.data() + entries};
        list(p, p.adjacency_source, p.adjacency_target, p.whole_from);
    }

private:
    static void list(const cpu::GraphConvParams<Real>& p, std::int64_t node_stride, std::int64_t other_stride,
                     const cpu::GraphConvEntries<Real>& lists) {
        std::int32_t count = 0;
        for (std::int64_t node = 0; node < p.graph; ++node)
            for (std::int64_t k = 0; k < p.parts; ++k) {
                lists.starts[node * p.parts + k] = count;
                for (std::int64_t other = 0; other < p.graph; ++other) {
                    const Real entry = p.adjacency[k * p.adjacency_part + node * node_stride + other * other_stride];
                    if (entry == 0) continue;
                    lists.others[count] = static_cast<std::int32_t>(other);
                    lists.values[count++] = entry;
                }
            }
        lists.starts[p.graph * p.parts] = count;
    }

    bool wanted_;
    std::int64_t starts_;
    Scratch<std::int32_t> indices_;
    Scratch<Real> values_;
};

// out[i] = Σ_share parts[share, i], in order.
template <class Real> void merge(const Real* parts, std::int64_t shares, std::int64_t size, Real* out) {
    parallel_for(size, std::max<std::int64_t>(1, (1 << 15) / shares), [&](std::int64_t begin, std::int64_t end) {
        if (out != parts) std::copy(parts + begin, parts + end, out + begin);
        for (std::int64_t share = 1; share < shares; ++share)
            for (std::int64_t i = begin; i < end; ++i) out[i] += parts[share * size + i];
    });
}

void graph_conv(const Array& x, const Array& weight, const Array& adjacency, const Maybe& bias, const Maybe& frames,
                const Maybe& joints, const Maybe& nodes, const Maybe& transform, const Maybe& scale, const Maybe& shift,
                const Maybe& pattern, const Array& out, const Maybe& sums) {
    const Arguments a{x, weight, adjacency, bias, frames, joints, nodes, transform, scale, shift, pattern};
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::GraphConvParams<Real> p = forward_params<Real>(a, out, "out");
        const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>(p.out_channels);
        p.out = out.data<Real>("out");
        check_parameter(sums, {2, p.out_channels}, "sums");
        double* const sums_out = sums ? sums->data<double>("sums") : nullptr;
        if (sums_out) std::fill(sums_out, sums_out + sums->count(), 0.0);
        if (out.count() == 0) return;
        Scratch<Real> packed(checked_product({cpu::packed_columns(p.out_channels), p.channels, p.parts}));
        pack<Real>(kernels, weight.data<const Real>("weight"), p.out_channels, p.channels, p.parts,
                   {p.channels, 1, p.out_channels * p.channels}, packed.data());
        p.packed = packed.data();
        const WholeGraph<Real> graph(p, false);
        const std::int64_t blocks = (p.frames + p.block - 1) / p.block;
        // Listing the entries of a graph costs about its size, so a piece should hold several blocks.
        const std::int64_t products = p.block * p.joints * (p.parts * p.channels * p.out_channels + 1);
        const std::int64_t items = p.rows * blocks, grain = std::max<std::int64_t>(1, piece_products / products);
        const std::int64_t pieces = (items + grain - 1) / grain, size = 2 * p.out_channels;
        Scratch<double> parts(sums_out ? checked_product({pieces, size}) : 0);
        for_pieces<Real>(p, false, false, items, grain,
                         [&](cpu::GraphConvParams<Real>& piece, std::int64_t begin, std::int64_t end) {
                             if (sums_out) {
                                 piece.work.sums = parts.data() + begin / grain * size;
                                 std::fill(piece.work.sums, piece.work.sums + size, 0.0);
                             }
                             kernels.graph_conv(piece, begin, end);
                         });
        if (sums_out) merge<double>(parts.data(), pieces, size, sums_out);
    });
}

// The sums of every share, of which merge_into makes one gradient; nothing where it is not wanted.
template <class Real> class Shares {
public:
    Shares(const Maybe& grad, const char* what, std::int64_t shares, std::int64_t size)
        : out_(grad ? grad->template data<Real>(what) : nullptr),
          shares_(shares),
          size_(size),
          parts_(out_ ? checked_product({shares, size}) : 0) {}

    Real* parts() { return out_ ? parts_.data() : nullptr; }
    Real* out() const { return out_; }
    void merge_into(Real* to) {
        if (out_ && size_ > 0) merge(parts_.data(), shares_, size_, to);
    }

private:
    Real* out_;
    std::int64_t shares_, size_;
    Scratch<Real> parts_;
};

// Bᵀ of the product g · Wᵀ: (C_out) → (K, width), packed.
template <class Real> void pack_transposed(const cpu::KernelTable<Real>& kernels, const cpu::GraphConvParams<Real>& p,
                                           const Real* weight, Real* packed) {
    const std::int64_t columns = p.parts * p.width;
    Scratch<Real> rows(checked_product({p.out_channels, columns}));
    std::fill(rows.data(), rows.data() + p.out_channels * columns, Real{0});
    for (std::int64_t k = 0; k < p.parts; ++k)
        for (std::int64_t o = 0; o < p.out_channels; ++o)
            std::copy(weight + (k * p.out_channels + o) * p.channels,
                      weight + (k * p.out_channels + o + 1) * p.channels, rows.data() + o * columns + k * p.width);
    pack<Real>(kernels, rows.data(), columns, p.out_channels, 1, {1, columns, 0}, packed);
}

// (K, width, C_out) → (K, C_out, C)
template <class Real> void exchange_axes(const cpu::GraphConvParams<Real>& p, const Real* from, Real* to) {
    for (std::int64_t k = 0; k < p.parts; ++k)
        for (std::int64_t c = 0; c < p.channels; ++c)
            for (std::int64_t o = 0; o < p.out_channels; ++o)
                to[(k * p.out_channels + o) * p.channels + c] = from[(k * p.width + c) * p.out_channels + o];
}

void check_gradients(const Arguments& a, const Maybe& x_grad, const Maybe& weight_grad, const Maybe& adjacency_grad,
                     const Maybe& bias_grad, const Maybe& scale_grad, const Maybe& shift_grad) {
    const std::int64_t k = a.parts(), out = a.out_channels(), graph = a.graph(), channels = a.channels();
    if (x_grad) {
        const bool dense = a.clip() ? x_grad->dense({0, 4, 2, 3, 1}) : x_grad->dense({0, 2, 3, 1});
        if (x_grad->rank != a.x.rank || x_grad->sizes != a.x.sizes || !dense)
            throw py::value_error("x_grad must have the shape of x and lie channels last");
    }
    check_parameter(weight_grad, {k, out, channels}, "weight_grad");
    if (a.row_adjacency())
        check_parameter(adjacency_grad, {a.adjacency.size(0), k, graph, graph}, "adjacency_grad");
    else
        check_parameter(adjacency_grad, {k, graph, graph}, "adjacency_grad");
    check_parameter(bias_grad, {k, out}, "bias_grad");
    check_parameter(scale_grad, {graph, channels}, "scale_grad");
    check_parameter(shift_grad, {graph, channels}, "shift_grad");
}

template <class Real> void backward(const Arguments& a, const Array& g, const Maybe& x_grad, const Maybe& weight_grad,
                                    const Maybe& adjacency_grad, const Maybe& bias_grad, const Maybe& scale_grad,
                                    const Maybe& shift_grad, const Maybe& y, const Maybe& sums_grad) {
    const cpu::KernelTable<Real>& kernels = cpu::kernels<Real>();
    cpu::GraphConvBackwardParams<Real> p{};
    p.forward = forward_params<Real>(a, g, "g");
    const WholeGraph<Real> graph(p.forward, true);
    const cpu::GraphConvParams<Real>& f = p.forward;
    const Real* weight = a.weight.data<const Real>("weight");
    p.g = g.data<const Real>("g");
    if (bool(y) != bool(sums_grad)) throw py::value_error("y and sums_grad must be given together");
    if (y) {
        if (y->rank != 4 || y->sizes != g.sizes || !y->dense({0, 2, 3, 1}))
            throw py::value_error("y must have the shape of g and lie channels last");
        check_parameter(sums_grad, {2, f.out_channels}, "sums_grad");
        p.y = y->template data<const Real>("y");
        p.sums_grad = sums_grad->template data<const double>("sums_grad");
    }
    p.x_frames = a.x.size(2), p.x_joints = a.x.size(3);
    p.shares = std::clamp<std::int64_t>(f.rows, 1, most_shares);
    if (a.pattern) {
        p.pattern = a.pattern->template data<const bool>("pattern");
        p.pattern_part = a.pattern->stride(0), p.pattern_source = a.pattern->stride(1);
        p.pattern_target = a.pattern->stride(2);
    }
    check_gradients(a, x_grad, weight_grad, adjacency_grad, bias_grad, scale_grad, shift_grad);
    if (x_grad) p.x_grad = x_grad->template data<Real>("x_grad");
    const std::int64_t gathered = checked_product({f.parts, f.width});
    const std::int64_t graph_size = checked_product({f.parts, f.graph, f.graph});
    const Maybe shared_adjacency = a.row_adjacency() ? std::nullopt : adjacency_grad;
    if (a.row_adjacency() && adjacency_grad) p.adjacency_grad = adjacency_grad->template data<Real>("adjacency_grad");
    Shares<Real> weights(weight_grad, "weight_grad", p.shares, checked_product({gathered, f.out_channels}));
    Shares<Real> adjacencies(shared_adjacency, "adjacency_grad", p.shares, graph_size);
    Shares<Real> biases(bias_grad, "bias_grad", p.shares, f.parts * f.out_channels);
    Shares<Real> scales(scale_grad, "scale_grad", p.shares, f.graph * f.channels);
    Shares<Real> shifts(shift_grad, "shift_grad", p.shares, f.graph * f.channels);
    p.weight_parts = weights.parts(), p.adjacency_parts = adjacencies.parts(), p.bias_parts = biases.parts();
    p.scale_parts = scales.parts(), p.shift_parts = shifts.parts();

    Scratch<Real> packed(checked_product({cpu::packed_columns(gathered), f.out_channels}));
    pack_transposed<Real>(kernels, f, weight, packed.data());
    p.packed_transposed = packed.data();
    for_pieces<Real>(f, true, p.y != nullptr, p.shares, 1,
                     [&](const cpu::GraphConvParams<Real>& piece, std::int64_t begin, std::int64_t end) {
                         cpu::GraphConvBackwardParams<Real> mine = p;
                         mine.forward = piece;
                         kernels.graph_conv_backward(mine, begin, end);
                     });
    if (weights.out()) {
        weights.merge_into(weights.parts());
        exchange_axes<Real>(f, weights.parts(), weights.out());
    }
    adjacencies.merge_into(adjacencies.out());
    biases.merge_into(biases.out());
    scales.merge_into(scales.out());
    shifts.merge_into(shifts.out());
}

// g: (B, T', V', C_out) dense. A gradient that is null is not wanted; the others are dense, x's channels last. With the
// forward's result y and the gradient of its sums, g is the gradient of y alone.
void graph_conv_backward(const Array& g, const Array& x, const Array& weight, const Array& adjacency, const Maybe& bias,
                         const Maybe& frames, const Maybe& joints, const Maybe& nodes, const Maybe& transform,
                         const Maybe& scale, const Maybe& shift, const Maybe& pattern, const Maybe& x_grad,
                         const Maybe& weight_grad, const Maybe& adjacency_grad, const Maybe& bias_grad,
                         const Maybe& scale_grad, const Maybe& shift_grad, const Maybe& y, const Maybe& sums_grad) {
    const Arguments a{x, weight, adjacency, bias, frames, joints, nodes, transform, scale, shift, pattern};
    with_real(x, "x", [&](auto zero) {
        backward<decltype(zero)>(a, g, x_grad, weight_grad, adjacency_grad, bias_grad, scale_grad, shift_grad, y,
                                 sums_grad);
    });
}

}  // namespace

void bind_graph_conv(py::module_& module) {
    module.def("graph_conv", &graph_conv, py::arg("x"), py::arg("weight"), py::arg("adjacency"), py::arg("bias"),
               py::arg("frames"), py::arg("joints"), py::arg("nodes"), py::arg("transform"), py::arg("scale"),
               py::arg("shift"), py::arg("pattern"), py::arg("out"), py::arg("sums") = py::none(), release_gil());
    module.def("graph_conv_backward", &graph_conv_backward, py::arg("g"), py::arg("x"), py::arg("weight"),
               py::arg("adjacency"), py::arg("bias"), py::arg("frames"), py::arg("joints"), py::arg("nodes"),
               py::arg("transform"), py::arg("scale"), py::arg("shift"), py::arg("pattern"), py::arg("x_grad"),
               py::arg("weight_grad"), py::arg("adjacency_grad"), py::arg("bias_grad"), py::arg("scale_grad"),
               py::arg("shift_grad"), py::arg("y") = py::none(), py::arg("sums_grad") = py::none(), release_gil());
}

}  // namespace asma::bindings
