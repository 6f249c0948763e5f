// Gradients of a graph convolution. That of x̂ is a graph convolution along the entries backwards; x's follows by its
// scale and back through its view. Those of the parameters are sums over rows, by shares that are merged in order.
#include <algorithm>

#include "cuda/gather_view.hpp"
#include "cuda/graph_conv.hpp"
#include "cuda/sums.hpp"

namespace asma::cuda {
namespace {

constexpr const char* op = "graph_conv_backward";
constexpr int threads = product_threads, chunk = product_depth;

// ---- weight and bias ----

// x̂ gathered along part k for n = k · channels + c.
template <class T> struct Gathered {
    GraphProduct<T> p;
    GraphPlan plan;

    struct Column {
        int part, channel;
    };

    struct Row {
        const Source<T>& x;
        RowGraph<T> graph;
        const T* body;
        std::int64_t clip;

        __device__ Column column(int, int n) const { return {n / x.channels, n % x.channels}; }
        __device__ float at(const Column& column, int place) const {
            const int t = place / x.joints;
            const T* frame = body + x.frame(clip, t) * x.x.frame;
            return graph.gather(column.part, place - t * x.joints, [&](int v) {
                const float value = x.turned(clip, frame + graph.from()[v] * x.x.joint, column.channel);
                return x.scaled(value, graph.nodes()[v], column.channel);
            });
        }
        __device__ float carried(int part, int place) const { return graph.sums()[part * x.joints + place % x.joints]; }
    };

    __device__ Row begin(std::int64_t b, unsigned char* memory) const {
        Row row{p.source, RowGraph<T>{p.graph, plan, memory}, p.source.body(b), p.source.clip(b)};
        row.graph.read_joints(p.source, b);
        row.graph.read_entries(b);
        return row;
    }
};

// ---- adjacency ----

constexpr int tile_places = 64;

// A block has part k of a share of the rows.
struct EntryTiles {
    int frames, joints, frame_tiles, joint_tiles;  // sources of a tile
    int targets;                                   // at a time
    int shares;
    int left, right, scratch, products, cotangents, before, after;
    GraphPlan graph;
};

template <class Tile, class T> EntryTiles entry_tiles(const GraphProduct<T>& p, int shares, std::size_t& bytes) {
    const Source<T>& x = p.source;
    EntryTiles tiles{};
    tiles.shares = shares;
    tiles.joints = tiles.targets = std::clamp(x.joints, 1, tile_places);
    tiles.frames = std::clamp(tile_places / tiles.joints, 1, std::max(1, x.frames));
    tiles.frame_tiles = (x.frames + tiles.frames - 1) / tiles.frames;
    tiles.joint_tiles = (x.joints + tiles.joints - 1) / tiles.joints;
    constexpr std::int64_t size = sizeof(typename Tile::Storage);
    SharedPlan shared;
    tiles.left = shared.take(Tile::left_numbers * size), tiles.right = shared.take(Tile::right_numbers * size);
    tiles.scratch = shared.take(Tile::scratch_bytes);
    tiles.products = shared.take(tile_places * (Tile::columns + 1) * 4);
    tiles.cotangents = shared.take(tile_places * (Tile::columns + 1) * 4);
    tiles.before = shared.take(x.joints * 4), tiles.after = shared.take(x.joints * 4);
    tiles.graph.nodes = shared.take(x.joints * 4), tiles.graph.from = shared.take(x.joints * 4);
    tiles.graph.sums = tiles.graph.masks = tiles.graph.entries = GraphPlan::absent;
    bytes = shared.total();
    return tiles;
}

// For each joint the nearest one before and after it that plays the same node: -1, or as many as there are, if none.
__device__ inline void link(const std::int32_t* nodes, int joints, std::int32_t* before, std::int32_t* after) {
    for (int v = static_cast<int>(threadIdx.x); v < joints; v += threads) {
        int u = v - 1;
        while (u >= 0 && nodes[u] != nodes[v]) --u;
        before[v] = u;
        u = v + 1;
        while (u < joints && nodes[u] != nodes[v]) ++u;
        after[v] = u;
    }
    block_barrier();
}

// x̂ · W_kᵀ + bias of a tile's places, at `products`: rows of Tile::columns + 1 numbers.
template <class T, class Tile> __device__ inline void multiply_tile(const GraphProduct<T>& p, const EntryTiles& tiles,
                                                                    const RowGraph<T>& row, std::int64_t b, int k,
                                                                    int frame, int joint, int joints, int count,
                                                                    int column, float* products) {
    using Storage = typename Tile::Storage;
    const Source<T>& x = p.source;
    auto *left = shared_at<Storage>(tiles.left), *right = shared_at<Storage>(tiles.right);
    const std::int64_t n = x.clip(b);
    const T* body = x.body(b);
    Tile sums;
    sums.clear();
    for (int begin = 0; begin < x.channels; begin += chunk) {
        ASMA_ROLLED
        for (int at = static_cast<int>(threadIdx.x); at < Tile::rows * chunk; at += threads) {
            const int place = at / chunk, c = begin + at % chunk;
            float value = 0;
            if (place < count && c < x.channels) {
                const int v = joint + place % joints;
                const T* from = body + x.frame(n, frame + place / joints) * x.x.frame + row.from()[v] * x.x.joint;
                value = x.scaled(x.turned(n, from, c), row.nodes()[v], c);
            }
            left[at] = Tile::round(value);
        }
        lay_out_weights<Tile>(p, k, column, begin, right);
        block_barrier();
        sums.multiply(left, right);
        block_barrier();
    }
    sums.finish(shared_at<float>(tiles.scratch), [&](int place, int o, float sum) {
        if (p.bias && column + o < p.outs) sum += to_float(load(p.bias + std::int64_t{k} * p.outs + column + o));
        products[place * (Tile::columns + 1) + o] = sum;
    });
}

template <class T, class Tile> __global__ void __launch_bounds__(threads, 2)
    sum_entries(GraphProduct<T> p, EntryTiles tiles, const T* g, float* all_sums) {
    constexpr int line = Tile::columns + 1;
    const Source<T>& x = p.source;
    auto *products = shared_at<float>(tiles.products), *cotangents = shared_at<float>(tiles.cotangents);
    auto *before = shared_at<std::int32_t>(tiles.before), *after = shared_at<std::int32_t>(tiles.after);
    const int thread = static_cast<int>(threadIdx.x), size = static_cast<int>(p.graph.size);
    unsigned rest = blockIdx.x;
    const int k = static_cast<int>(take_digit(rest, p.graph.parts)), share = static_cast<int>(rest);
    float* sums = all_sums + (std::int64_t{share} * p.graph.parts + k) * size * size;
    for (int at = thread; at < size * size; at += threads) store(sums + at, 0.0f);
    RowGraph<T> row{p.graph, tiles.graph, shared_memory()};
    const Rows rows = rows_of(share, tiles.shares, x.rows);
    for (std::int64_t b = rows.begin; b < rows.end; ++b) {
        row.read_joints(x, b);
        link(row.nodes(), x.joints, before, after);
        for (int tile = 0; tile < tiles.frame_tiles * tiles.joint_tiles; ++tile) {
            const int frame = tile / tiles.joint_tiles * tiles.frames, joint = tile % tiles.joint_tiles * tiles.joints;
            const int frames = x.frames - frame < tiles.frames ? x.frames - frame : tiles.frames;
            const int joints = x.joints - joint < tiles.joints ? x.joints - joint : tiles.joints;
            for (int column = 0; column < p.outs; column += Tile::columns) {
                multiply_tile<T, Tile>(p, tiles, row, b, k, frame, joint, joints, frames * joints, column, products);
                for (int first = 0; first < x.joints; first += tiles.targets) {
                    const int targets = x.joints - first < tiles.targets ? x.joints - first : tiles.targets;
                    ASMA_ROLLED
                    for (int at = thread; at < frames * targets * Tile::columns; at += threads) {
                        const int place = at / Tile::columns, o = at % Tile::columns;
                        const std::int64_t t = frame + place / targets, w = first + place % targets;
                        const T* from = g + ((b * x.frames + t) * x.joints + w) * p.outs + column + o;
                        cotangents[place * line + o] = column + o < p.outs ? to_float(load(from)) : 0;
                    }
                    block_barrier();
                    for (int pair = thread; pair < joints * targets; pair += threads) {
                        const int v = joint + pair / targets, w = first + pair % targets;
                        // Joints of one node are summed by the thread of the first of them here.
                        if (before[v] >= joint || before[w] >= first) continue;
                        if (p.graph.pattern && !row.inside(k, v, w)) continue;
                        float sum = 0;
                        ASMA_ROLLED
                        for (int u = v; u < joint + joints; u = after[u]) {
                            ASMA_ROLLED
                            for (int z = w; z < first + targets; z = after[z]) {
                                ASMA_ROLLED
                                for (int t = 0; t < frames; ++t) {
                                    const float* own = products + (t * joints + u - joint) * line;
                                    const float* theirs = cotangents + (t * targets + z - first) * line;
                                    for (int o = 0; o < Tile::columns; ++o) sum += own[o] * theirs[o];
                                }
                            }
                        }
                        float* to = sums + row.nodes()[v] * size + row.nodes()[w];
                        store(to, load(to) + sum);
                    }
                    block_barrier();
                }
            }
        }
    }
}

// ---- scale and shift; x by way of x̂ ----

// Sums over a share of the rows, of x̂'s gradient times what is scaled, and of it alone: (shares, 2, V_graph, C).
template <class T> __global__ void __launch_bounds__(threads, 4)
    sum_affine(Source<T> x, Graph<T> graph, int shares, const float* gradient, float* all_sums) {
    auto* before = shared_at<std::int32_t>(0);
    auto* after = before + x.joints;
    const int thread = static_cast<int>(threadIdx.x), numbers = static_cast<int>(graph.size) * x.channels;
    float* sums = all_sums + std::int64_t{blockIdx.x} * 2 * numbers;
    for (int at = thread; at < 2 * numbers; at += threads) store(sums + at, 0.0f);
    const Rows rows = rows_of(static_cast<int>(blockIdx.x), shares, x.rows);
    GraphPlan plan{};
    plan.nodes = 2 * x.joints * 4, plan.from = 3 * x.joints * 4;
    RowGraph<T> row{graph, plan, shared_memory()};
    for (std::int64_t b = rows.begin; b < rows.end; ++b) {
        row.read_joints(x, b);
        link(row.nodes(), x.joints, before, after);
        const std::int64_t n = x.clip(b);
        const T* body = x.body(b);
        for (int at = thread; at < x.joints * x.channels; at += threads) {
            const int v = at / x.channels, c = at % x.channels;
            if (before[v] >= 0) continue;  // the first joint of a node sums for all of them
            float of_scale = 0, of_shift = 0;
            ASMA_ROLLED
            for (int u = v; u < x.joints; u = after[u]) {
                ASMA_ROLLED
                for (int t = 0; t < x.frames; ++t) {
                    const float one = load(gradient + ((b * x.frames + t) * x.joints + u) * x.channels + c);
                    of_shift += one;
                    of_scale += one * x.turned(n, body + x.frame(n, t) * x.x.frame + row.from()[u] * x.x.joint, c);
                }
            }
            float* to = sums + row.nodes()[v] * x.channels + c;
            store(to, load(to) + of_scale);
            store(to + numbers, load(to + numbers) + of_shift);
        }
        block_barrier();
    }
}

template <class T, class Out> __global__ void __launch_bounds__(threads)
    scale_places(Source<T> x, Graph<T> graph, unsigned count, const float* gradient, Out* out) {
    constexpr unsigned warps = threads / warp_size;
    for (unsigned place = blockIdx.x * warps + threadIdx.x / warp_size; place < count; place += gridDim.x * warps) {
        unsigned rest = place;
        const int v = static_cast<int>(take_digit(rest, x.joints));
        const unsigned b = rest / static_cast<unsigned>(x.frames);
        std::int64_t node = v;
        if (graph.nodes) node = load(graph.nodes + b / graph.rows_per_nodes * graph.nodes_stride + v);
        check_index(node, graph.size, "nodes");
        for (int c = static_cast<int>(threadIdx.x) % warp_size; c < x.channels; c += warp_size) {
            const std::int64_t at = std::int64_t{place} * x.channels + c;
            store(out + at, from_float<Out>(load(gradient + at) * to_float(load(x.scale + node * x.channels + c))));
        }
    }
}

// ---- the whole ----

struct Wanted {
    const Map &x, &weight, &adjacency, &bias, &scale, &shift;
};

// Where in the workspace each kind of sums begins, in floats, and the shares of each.
struct Workspace {
    std::int64_t x_hat, entries, affine, products, biases, total;
    int entry_shares, affine_shares, product_shares, bias_shares;
    bool has_x_hat;

    template <class T> static Workspace of(const GraphProduct<T>& p, const GraphArguments& a, const Wanted& wanted) {
        const Source<T>& x = p.source;
        const std::int64_t numbers = std::int64_t{p.graph.parts} * x.channels;
        Workspace space{};
        const auto take = [&](std::int64_t& begin, std::int64_t count) {
            begin = space.total;
            space.total += count;
        };
        space.has_x_hat = wanted.scale || wanted.shift || (wanted.x && (a.x.rank == 5 || a.scale));
        if (space.has_x_hat) take(space.x_hat, x.rows * x.frames * x.joints * x.channels);
        // A row that has its own entries is its own share.
        space.entry_shares = static_cast<int>(a.adjacency.rank == 4 ? x.rows : shares_of(x.rows, p.graph.parts));
        if (wanted.adjacency) take(space.entries, space.entry_shares * p.graph.parts * p.graph.size * p.graph.size);
        space.affine_shares = shares_of(x.rows, 1);
        if (wanted.scale || wanted.shift) take(space.affine, space.affine_shares * 2 * p.graph.size * x.channels);
        space.product_shares = shares_of_products(x.rows, 1, p.outs, numbers);
        if (wanted.weight) take(space.products, space.product_shares * numbers * p.outs);
        space.bias_shares = shares_of(x.rows, std::int64_t{p.graph.parts} * ((p.outs + 63) / 64));
        if (wanted.bias) take(space.biases, std::int64_t{space.bias_shares} * p.graph.parts * p.outs);
        return space;
    }
};

template <class T> T* gradient_of(const Map& array, const Array& like, const char* what) {
    bool same = array->rank == like.rank;
    for (int axis = 0; axis < like.rank; ++axis) same = same && array->size(axis) == like.size(axis);
    const bool dense = like.rank == 4   ? array->dense({0, 1, 2, 3})
                       : like.rank == 3 ? array->dense({0, 1, 2})
                                        : array->dense({0, 1});
    if (!same || !dense)
        throw std::invalid_argument(std::string(what) + " must be dense, and as large as what it is of");
    return array->data<T>(what, like.device);
}

template <class T> void weight_gradients(const GraphProduct<T>& p, const GraphArguments& a, const Wanted& wanted,
                                         const Array& g, const Workspace& space, float* workspace, bool use_tf32) {
    const Source<T>& x = p.source;
    SharedPlan kept;
    const Gathered<T> gathered{p, GraphPlan::of(kept, x.joints, p.graph.parts)};
    const auto bytes = static_cast<std::int64_t>(kept.total());
    ProductSums<T> sums{};
    sums.g = g.data<const T>("g", a.x.device);
    sums.rows = x.rows, sums.places = x.frames * x.joints, sums.groups = 1, sums.outs = p.outs;
    sums.numbers = p.graph.parts * x.channels;
    if (wanted.weight && wanted.weight->count() > 0) {
        sums.sums = workspace + space.products, sums.shares = space.product_shares;
        sum_all_products(op, sums, gathered, bytes, use_tf32, g.stream);
        Merge<T> merged{};
        merged.from = sums.sums, merged.to = gradient_of<T>(wanted.weight, a.weight, "weight_grad");
        merged.shares = sums.shares, merged.share = std::int64_t{p.outs} * sums.numbers;
        merged.a = x.channels, merged.b = sums.numbers, merged.c = 1;
        merged.size_b = p.outs, merged.size_c = x.channels;
        merge(op, merged, wanted.weight->count(), g.stream);
    }
    if (wanted.bias && wanted.bias->count() > 0) {
        float* all = workspace + space.biases;
        sums.shares = space.bias_shares;
        sum_all_biases(op, sums, gathered, p.graph.parts, bytes, all, g.stream);
        Merge<T> merged{};
        merged.from = all, merged.to = gradient_of<T>(wanted.bias, *a.bias, "bias_grad");
        merged.shares = sums.shares, merged.share = wanted.bias->count(), merged.a = 1;
        merged.size_b = merged.size_c = 1;
        merge(op, merged, wanted.bias->count(), g.stream);
    }
}

template <class T> void adjacency_gradient(const GraphProduct<T>& p, const GraphArguments& a, const Wanted& wanted,
                                           const Array& g, const Workspace& space, float* workspace, bool use_tf32) {
    float* sums = workspace + space.entries;
    const bool of_rows = a.adjacency.rank == 4;
    T* to = gradient_of<T>(wanted.adjacency, a.adjacency, "adjacency_grad");
    if (wanted.adjacency->count() == 0) return;
    with_product<T>(use_tf32, p.outs, [&](auto* number, auto columns) {
        using Tile = Product<std::remove_pointer_t<decltype(number)>, tile_places, columns.value>;
        std::size_t bytes = 0;
        const EntryTiles tiles = entry_tiles<Tile>(p, space.entry_shares, bytes);
        launch({op, std::int64_t{space.entry_shares} * p.graph.parts, threads, bytes, g.stream}, sum_entries<T, Tile>,
               p, tiles, g.data<const T>("g", a.x.device), sums);
    });
    Merge<T> merged{};
    const int size = static_cast<int>(p.graph.size);
    merged.from = sums, merged.to = to, merged.a = p.graph.size * p.graph.size, merged.b = size, merged.c = 1;
    merged.share = p.graph.parts * merged.a, merged.shares = of_rows ? 1 : space.entry_shares;
    merged.size_b = merged.size_c = size;
    merge(op, merged, wanted.adjacency->count(), g.stream);
}

// x̂'s gradient is a convolution of g along the entries backwards.
template <class T> GraphProduct<T> backwards(const GraphProduct<T>& p, const GraphArguments& a, const Array& g) {
    GraphProduct<T> back = p;
    Source<T>& source = back.source;
    source = {};
    source.x = {g.data<const T>("g", a.x.device), g.stride(0), g.stride(1), g.stride(2), g.stride(3), 0};
    source.rows = p.source.rows, source.bodies = 1, source.channels = p.outs;
    source.frames = source.x_frames = p.source.frames, source.joints = source.x_joints = p.source.joints;
    std::swap(back.graph.source, back.graph.target);
    std::swap(back.graph.pattern_source, back.graph.pattern_target);
    std::swap(back.w_out, back.w_in);
    back.bias = nullptr, back.outs = p.source.channels;
    return back;
}

template <class T> void affine_gradients(const GraphProduct<T>& p, const GraphArguments& a, const Wanted& wanted,
                                         const Workspace& space, float* workspace, std::uintptr_t stream) {
    const Source<T>& x = p.source;
    float* sums = workspace + space.affine;
    const std::int64_t numbers = p.graph.size * x.channels;
    const std::size_t bytes = static_cast<std::size_t>(4 * x.joints) * 4;
    launch({op, space.affine_shares, threads, bytes, stream}, sum_affine<T>, x, p.graph, space.affine_shares,
           static_cast<const float*>(workspace + space.x_hat), sums);
    Merge<T> merged{};
    merged.from = sums, merged.share = 2 * numbers, merged.shares = space.affine_shares;
    merged.a = 1, merged.size_b = merged.size_c = 1;
    if (wanted.scale) {
        merged.to = gradient_of<T>(wanted.scale, *a.scale, "scale_grad");
        merge(op, merged, numbers, stream);
    }
    if (wanted.shift) {
        merged.from += numbers, merged.to = gradient_of<T>(wanted.shift, *a.shift, "shift_grad");
        merge(op, merged, numbers, stream);
    }
}

template <class T> void x_gradient(const GraphProduct<T>& p, const GraphArguments& a, const Wanted& wanted,
                                   const Array& g, const Workspace& space, float* workspace, bool use_tf32) {
    const Source<T>& x = p.source;
    const bool clip = a.x.rank == 5;
    T* to = nullptr;
    if (wanted.x) {
        for (int axis = 0; axis < a.x.rank; ++axis)
            if (wanted.x->rank != a.x.rank || wanted.x->size(axis) != a.x.size(axis))
                throw std::invalid_argument("x_grad must be as large as x");
        if (clip ? !wanted.x->dense({0, 4, 2, 3, 1}) : !wanted.x->dense({0, 2, 3, 1}))
            throw std::invalid_argument("x_grad must be dense, channels last");
        to = wanted.x->template data<T>("x_grad", g.device);
    }
    const GraphProduct<T> back = backwards(p, a, g);
    if (!space.has_x_hat) {
        convolve_graph(op, back, to, use_tf32, g.stream);
        return;
    }
    float* x_hat = workspace + space.x_hat;
    convolve_graph(op, back, x_hat, use_tf32, g.stream);
    if (wanted.scale || wanted.shift) affine_gradients(p, a, wanted, space, workspace, g.stream);
    if (!wanted.x || wanted.x->count() == 0) return;
    const std::int64_t places = x.rows * x.frames * x.joints;
    const Launch scaling{op, blocks_for(places, threads / warp_size), threads, 0, g.stream};
    const float* gradient = x_hat;
    if (!clip) {
        launch(scaling, scale_places<T, T>, x, p.graph, static_cast<unsigned>(places), gradient, to);
        return;
    }
    if (x.scale) launch(scaling, scale_places<T, float>, x, p.graph, static_cast<unsigned>(places), gradient, x_hat);
    check_places(x.rows * x.x_frames, "clips have more frames");
    const std::int64_t joint = x.channels, frame = joint * x.joints, body = frame * x.frames;
    const Clip<const float> viewed{x_hat, body * x.bodies, 1, frame, joint, body};
    gather_view_back(op, viewed, x.view,
                     ViewSizes{a.x.size(0), x.bodies, x.frames, x.joints, x.channels, x.x_frames, x.x_joints}, to,
                     g.stream);
}

}  // namespace

std::int64_t graph_conv_backward_workspace(const Array& g, const Array& x, const Array& weight, const Array& adjacency,
                                           const Map& bias, const Map& frames, const Map& joints, const Map& nodes,
                                           const Map& transform, const Map& scale, const Map& shift, const Map& pattern,
                                           const Map& x_grad, const Map& weight_grad, const Map& adjacency_grad,
                                           const Map& bias_grad, const Map& scale_grad, const Map& shift_grad) {
    const GraphArguments arguments{x, weight, adjacency, bias, frames, joints, nodes, transform, scale, shift, pattern};
    const Wanted wanted{x_grad, weight_grad, adjacency_grad, bias_grad, scale_grad, shift_grad};
    std::int64_t total = 0;
    with_float(g, "g", [&](auto zero) {
        total = Workspace::of(graph_product<decltype(zero)>(arguments, g, "g"), arguments, wanted).total;
    });
    return total;
}

void graph_conv_backward(const Array& g, const Array& x, const Array& weight, const Array& adjacency, const Map& bias,
                         const Map& frames, const Map& joints, const Map& nodes, const Map& transform, const Map& scale,
                         const Map& shift, const Map& pattern, const Map& x_grad, const Map& weight_grad,
                         const Map& adjacency_grad, const Map& bias_grad, const Map& scale_grad, const Map& shift_grad,
                         bool use_tf32, const Array& workspace) {
    const GraphArguments arguments{x, weight, adjacency, bias, frames, joints, nodes, transform, scale, shift, pattern};
    const Wanted wanted{x_grad, weight_grad, adjacency_grad, bias_grad, scale_grad, shift_grad};
    with_float(g, "g", [&](auto zero) {
        using T = decltype(zero);
        const GraphProduct<T> p = graph_product<T>(arguments, g, "g");
        const Workspace space = Workspace::of(p, arguments, wanted);
        check_sizes(workspace, {space.total}, "workspace");
        auto* memory = workspace.data<float>("workspace", g.device);
        if (space.has_x_hat || wanted.x) x_gradient(p, arguments, wanted, g, space, memory, use_tf32);
        if (wanted.weight || wanted.bias) weight_gradients(p, arguments, wanted, g, space, memory, use_tf32);
        if (wanted.adjacency) adjacency_gradient(p, arguments, wanted, g, space, memory, use_tf32);
    });
}

}  // namespace asma::cuda
