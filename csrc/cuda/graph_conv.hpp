// What the directions of a graph convolution share: x̂, which is read of a clip through a view or of a map, and the
// graph of a row.
#pragma once

#include <optional>

#include "cuda/arrays.hpp"
#include "cuda/products.hpp"

namespace asma::cuda {

inline constexpr std::int64_t most_joints = 256, most_parts = 64, most_targets = 4096;  // targets: joints times parts

// What is convolved: rows b = n · bodies + m, each (frames, joints, channels) as a view reads it.
template <class T> struct Source {
    Clip<const T> x;
    ViewMaps<float> view;
    const T *scale, *shift;  // (V_graph, C), or null
    std::int64_t rows;
    int bodies, frames, joints, channels, x_frames, x_joints;

    __device__ const T* body(std::int64_t b) const {
        const auto row = static_cast<unsigned>(b), each = static_cast<unsigned>(bodies);
        return x.data + row / each * x.clip + row % each * x.body;
    }
    __device__ std::int64_t clip(std::int64_t b) const {
        return static_cast<unsigned>(b) / static_cast<unsigned>(bodies);
    }
    __device__ std::int64_t frame(std::int64_t n, std::int64_t t) const {
        return mapped(view.frames ? view.frames + n * view.frames_stride : nullptr, t, x_frames, "view.frames");
    }
    // Channel c at a recorded place, turned; neither scaled nor shifted.
    __device__ float turned(std::int64_t n, const T* from, int c) const {
        if (c >= view.dims) return to_float(load(from + c * x.channel));
        const float* line = view.transform + n * view.transform_stride + c * view.dims;
        float sum = 0;
        ASMA_ROLLED
        for (int d = 0; d < view.dims; ++d) sum += load(line + d) * to_float(load(from + d * x.channel));
        return sum;
    }
    __device__ float scaled(float value, std::int64_t node, int c) const {
        if (!scale) return value;
        return to_float(load(scale + node * channels + c)) * value + to_float(load(shift + node * channels + c));
    }
};

// The graph, whose entries lead from a source joint to a target joint; backwards the two change places.
template <class T> struct Graph {
    const std::int32_t* nodes;  // (rows / rows_per_nodes, joints), or null
    const T* adjacency;
    const bool* pattern;  // or null: what is outside it is no entry
    std::int64_t nodes_stride;
    std::int64_t row, part, source, target;  // strides of the adjacency
    std::int64_t pattern_part, pattern_source, pattern_target;
    std::int64_t size;  // nodes
    int rows_per_nodes, joints, parts;

    __device__ const T* entries(std::int64_t b) const { return adjacency + b * row; }
};

inline constexpr const char* outside_pattern = "adjacency must be zero outside pattern";

// Where the rows share an adjacency the blocks look together whether it is zero outside the pattern, each at some
// entries.
template <class T> __device__ inline void check_pattern(const Graph<T>& graph) {
    if (!graph.pattern || graph.row != 0) return;
    constexpr unsigned most = 1024;  // blocks that look
    const unsigned blocks = gridDim.x < most ? gridDim.x : most;
    if (blockIdx.x >= blocks) return;
    const auto size = static_cast<unsigned>(graph.size), count = static_cast<unsigned>(graph.parts) * size * size;
    ASMA_ROLLED
    for (unsigned place = blockIdx.x * product_threads + threadIdx.x; place < count;
         place += blocks * product_threads) {
        const std::int64_t w = place % size, v = place / size % size, k = place / size / size;
        if (load(graph.pattern + k * graph.pattern_part + v * graph.pattern_source + w * graph.pattern_target))
            continue;
        require(to_float(load(graph.adjacency + k * graph.part + v * graph.source + w * graph.target)) == 0,
                outside_pattern);
    }
}

// Where a block keeps the graph of the row in work. A bit of a mask stands for a source of a target; masks, and the
// entries themselves, are kept where they take little room.
struct GraphPlan {
    static constexpr int word_bits = 32, absent = -1;
    static constexpr std::int64_t most_kept = 16 * 1024;

    int nodes, from, sums, masks, entries, words;

    static GraphPlan of(SharedPlan& shared, std::int64_t joints, std::int64_t parts) {
        constexpr std::int64_t size = 4;
        GraphPlan plan{};
        plan.words = static_cast<int>((joints + word_bits - 1) / word_bits);
        plan.nodes = shared.take(joints * size), plan.from = shared.take(joints * size);
        plan.sums = shared.take(parts * joints * size);
        const std::int64_t masks = parts * joints * plan.words * size, entries = parts * joints * joints * size;
        plan.masks = masks <= most_kept ? shared.take(masks) : absent;
        plan.entries = plan.masks != absent && entries <= most_kept ? shared.take(entries) : absent;
        return plan;
    }
};

template <class T> struct RowGraph {
    const Graph<T>& graph;
    const GraphPlan& plan;
    unsigned char* memory;       // from which the plan counts
    const T* entries = nullptr;  // of the row

    // (joints): the node that each plays, the recorded joint that it reads.
    __device__ std::int32_t* nodes() const { return reinterpret_cast<std::int32_t*>(memory + plan.nodes); }
    __device__ std::int32_t* from() const { return reinterpret_cast<std::int32_t*>(memory + plan.from); }
    // (parts, joints): of a target's entries.
    __device__ float* sums() const { return reinterpret_cast<float*>(memory + plan.sums); }
    // (parts, joints, words), and (parts, joints, joints) from target to source, where they are kept.
    __device__ std::uint32_t* masks() const { return reinterpret_cast<std::uint32_t*>(memory + plan.masks); }
    __device__ float* kept() const { return reinterpret_cast<float*>(memory + plan.entries); }
    __device__ bool has_masks() const { return plan.masks != GraphPlan::absent; }
    __device__ bool keeps() const { return plan.entries != GraphPlan::absent; }

    // Row b's nodes and recorded joints. Of all threads; at its end is a barrier.
    template <class S> __device__ void read_joints(const Source<S>& x, std::int64_t b) {
        const std::int64_t n = x.clip(b);
        const std::int32_t* joints = x.view.joints ? x.view.joints + n * x.view.joints_stride : nullptr;
        const std::int32_t* own = nullptr;
        if (graph.nodes) {
            const auto row = static_cast<unsigned>(b) / static_cast<unsigned>(graph.rows_per_nodes);
            own = graph.nodes + row * graph.nodes_stride;
        }
        for (int v = static_cast<int>(threadIdx.x); v < graph.joints; v += product_threads) {
            nodes()[v] = static_cast<std::int32_t>(mapped(own, v, graph.size, "nodes"));
            from()[v] = static_cast<std::int32_t>(mapped(joints, v, x.x_joints, "view.joints"));
        }
        block_barrier();
    }

    // After the joints, the entries between them.
    __device__ void read_entries(std::int64_t b) {
        entries = graph.entries(b);
        for (int place = static_cast<int>(threadIdx.x); place < graph.parts * graph.joints; place += product_threads) {
            const int k = place / graph.joints, w = place % graph.joints;
            float sum = 0;
            std::uint32_t mask = 0;
            bool any = false;
            ASMA_ROLLED
            for (int v = 0; v < graph.joints; ++v) {
                const bool barred = graph.pattern && !inside(k, v, w);
                // What is outside the pattern is not read where the rows share the adjacency.
                const float entry = barred && graph.row == 0 ? 0 : entry_of(k, v, w);
                if (keeps()) kept()[place * graph.joints + v] = entry;
                if (entry != 0) {
                    require(!barred, outside_pattern);
                    sum += entry, any = true;
                    mask |= std::uint32_t{1} << v % GraphPlan::word_bits;
                }
                if (v % GraphPlan::word_bits != GraphPlan::word_bits - 1 && v != graph.joints - 1) continue;
                if (has_masks()) masks()[place * plan.words + v / GraphPlan::word_bits] = mask;
                mask = 0;
            }
            sums()[place] = any ? sum : 0;
        }
        block_barrier();
    }

    __device__ float entry_of(int k, int v, int w) const {
        return to_float(load(entries + k * graph.part + nodes()[v] * graph.source + nodes()[w] * graph.target));
    }
    __device__ bool inside(int k, int v, int w) const {
        return load(graph.pattern + k * graph.pattern_part + nodes()[v] * graph.pattern_source +
                    nodes()[w] * graph.pattern_target);
    }

    // Σ over the sources v of target w of entry · value(v). An entry of zero carries nothing, not even a NaN.
    template <class Value> __device__ float gather(int k, int w, const Value& value) const {
        const int place = k * graph.joints + w;
        float sum = 0;
        if (!has_masks()) {
            ASMA_ROLLED
            for (int v = 0; v < graph.joints; ++v) {
                if (graph.pattern && !inside(k, v, w)) continue;
                const float entry = entry_of(k, v, w);
                if (entry != 0) sum += entry * value(v);
            }
            return sum;
        }
        ASMA_ROLLED
        for (int word = 0; word < plan.words; ++word) {
            ASMA_ROLLED
            for (std::uint32_t mask = masks()[place * plan.words + word]; mask != 0; mask &= mask - 1) {
                const int v = word * GraphPlan::word_bits + lowest_bit(mask);
                sum += (keeps() ? kept()[place * graph.joints + v] : entry_of(k, v, w)) * value(v);
            }
        }
        return sum;
    }
};

// y = Σ_k (x̂ gathered along part k) · W_k + bias: of a forward pass, and, with sources and targets, inputs and outputs
// exchanged, the gradient of x̂.
template <class T> struct GraphProduct {
    Source<T> source;
    Graph<T> graph;
    const T *weight, *bias;            // bias (parts, outs), or null
    std::int64_t w_part, w_out, w_in;  // strides
    int outs;
};

// Part k's weights of the outputs from `column` on and the inputs from `begin` on.
template <class Tile, class T> __device__ inline void lay_out_weights(const GraphProduct<T>& p, int k, int column,
                                                                      int begin, typename Tile::Storage* right) {
    const T* from = p.weight + k * p.w_part + column * p.w_out + begin * p.w_in;
    lay_out_right<Tile>(from, p.w_out, p.w_in, p.outs - column, p.source.channels - begin, right);
}

// out (rows, frames, joints, outs), dense.
template <class T, class Out>
void convolve_graph(const char* op, const GraphProduct<T>& product, Out* out, bool use_tf32, std::uintptr_t stream);

// The op's arguments in their order.
struct GraphArguments {
    const Array &x, &weight, &adjacency;
    const Map &bias, &frames, &joints, &nodes, &transform, &scale, &shift, &pattern;
};

// Checks what kernels read without looking; `out` is y or its gradient.
template <class T> GraphProduct<T> graph_product(const GraphArguments& a, const Array& out, const char* what);

}  // namespace asma::cuda
