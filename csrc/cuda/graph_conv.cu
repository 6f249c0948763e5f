// Graph convolution, forward: what a view reads of a clip is gathered along the adjacency's entries and multiplied with
// the weights, all in shared memory; nothing in between is written. A block has a row, or some of its frames, and some
// channels of the result.
#include "cuda/graph_conv.hpp"

#include <algorithm>

namespace asma::cuda {
namespace {

constexpr int threads = product_threads, places = 128, chunk = product_depth;
constexpr std::int64_t fewest_blocks = 512;  // below it a row is cut, and its graph read by each of its blocks
constexpr int most_resident = 4;             // parts whose weights stay, where one chunk holds the channels

struct Tiles {
    GraphPlan graph;
    int frames, joints;  // of a tile
    int frame_tiles, joint_tiles, column_tiles, cuts;
    int read, scales, at_frames, turn;  // x̂ of a chunk; scale and shift; the recorded frames, and the transform
    int left, right, scratch, bias;
    bool resident;
    std::size_t shared;
};

template <class Tile, class T> Tiles plan(const GraphProduct<T>& p) {
    const Source<T>& x = p.source;
    Tiles tiles{};
    tiles.joints = std::min(x.joints, places);
    tiles.frames = x.joints <= places ? std::min(places / x.joints, x.frames) : 1;
    tiles.frame_tiles = (x.frames + tiles.frames - 1) / tiles.frames;
    tiles.joint_tiles = (x.joints + tiles.joints - 1) / tiles.joints;
    tiles.column_tiles = (p.outs + Tile::columns - 1) / Tile::columns;
    const std::int64_t uncut = std::max<std::int64_t>(1, x.rows * tiles.column_tiles);
    const std::int64_t wanted = (fewest_blocks + uncut - 1) / uncut;
    tiles.cuts =
        static_cast<int>(std::clamp<std::int64_t>(wanted, 1, std::int64_t{tiles.frame_tiles} * tiles.joint_tiles));
    tiles.resident = x.channels <= chunk && p.graph.parts <= most_resident;
    constexpr std::int64_t size = sizeof(typename Tile::Storage);
    SharedPlan shared;
    tiles.left = shared.take(Tile::left_numbers * size);
    tiles.right = shared.take((tiles.resident ? std::max(1, p.graph.parts) : 2) * Tile::right_numbers * size);
    tiles.scratch = shared.take(Tile::scratch_bytes);
    tiles.read = shared.take(std::int64_t{tiles.frames} * x.joints * chunk * 4);
    tiles.scales = shared.take(x.scale ? 2 * std::int64_t{x.joints} * chunk * 4 : 0);
    tiles.at_frames = shared.take(tiles.frames * 4), tiles.turn = shared.take(9 * 4);
    tiles.bias = shared.take(p.bias ? std::int64_t{p.graph.parts} * Tile::columns * 4 : 0);
    tiles.graph = GraphPlan::of(shared, x.joints, p.graph.parts);
    tiles.shared = shared.total();
    return tiles;
}

// Scale and shift of the joints' nodes, channels [begin, begin + 16).
template <class T>
__device__ inline void lay_out_scales(const Source<T>& x, const RowGraph<T>& row, int begin, float* scales) {
    ASMA_ROLLED
    for (int place = static_cast<int>(threadIdx.x); place < x.joints * chunk; place += threads) {
        const int c = begin + place % chunk;
        if (c >= x.channels) continue;
        const std::int64_t at = std::int64_t{row.nodes()[place / chunk]} * x.channels + c;
        scales[place] = to_float(load(x.scale + at));
        scales[x.joints * chunk + place] = to_float(load(x.shift + at));
    }
}

// x̂ of `count` frames and channels [begin, begin + 16), zeros beyond the last: (frame, joint, channel).
template <class T> __device__ inline void lay_out(const Source<T>& x, const RowGraph<T>& row, const T* body,
                                                  const float* turn, const std::int32_t* at_frames, int count,
                                                  int begin, const float* scales, float* read) {
    const auto scaled = [&](float value, int v, int c) {
        return x.scale ? scales[v * chunk + c] * value + scales[(x.joints + v) * chunk + c] : value;
    };
    const auto joint = [&](int place) {
        return body + at_frames[place / x.joints] * x.x.frame + row.from()[place % x.joints] * x.x.joint;
    };
    const int dims = begin == 0 ? static_cast<int>(x.view.dims) : 0, thread = static_cast<int>(threadIdx.x);
    ASMA_ROLLED
    for (int place = thread; place < count * x.joints && dims > 0; place += threads) {
        const T* from = joint(place);
        float moved[3];
        for (int c = 0; c < 3; ++c) moved[c] = c < dims ? to_float(load(from + c * x.x.channel)) : 0;
        for (int e = 0; e < 3; ++e) {
            if (e >= dims) continue;
            float sum = turn[3 * e] * moved[0] + turn[3 * e + 1] * moved[1];
            if (dims > 2) sum += turn[3 * e + 2] * moved[2];
            read[place * chunk + e] = scaled(sum, place % x.joints, e);
        }
    }
    ASMA_ROLLED
    for (int at = thread; at < count * x.joints * chunk; at += threads) {
        const int place = at / chunk, c = at % chunk;
        if (c < dims) continue;
        const bool there = begin + c < x.channels;
        read[at] = there ? scaled(to_float(load(joint(place) + (begin + c) * x.x.channel)), place % x.joints, c) : 0;
    }
}

template <class T, class Out, class Tile> __global__ void __launch_bounds__(threads, 2)
    convolve_tiles(GraphProduct<T> p, Tiles tiles, Out* out) {
    using Storage = typename Tile::Storage;
    const Source<T>& x = p.source;
    auto* left = shared_at<Storage>(tiles.left);
    auto* right = shared_at<Storage>(tiles.right);
    auto* read = shared_at<float>(tiles.read);
    auto* scales = shared_at<float>(tiles.scales);
    auto* at_frames = shared_at<std::int32_t>(tiles.at_frames);
    auto* turn = shared_at<float>(tiles.turn);
    auto* bias = shared_at<float>(tiles.bias);
    const int thread = static_cast<int>(threadIdx.x), parts = p.graph.parts;
    unsigned rest = blockIdx.x;
    const int column = static_cast<int>(take_digit(rest, tiles.column_tiles)) * Tile::columns;
    const int cut = static_cast<int>(take_digit(rest, tiles.cuts));
    const int b = static_cast<int>(rest), n = static_cast<int>(x.clip(b));

    check_pattern(p.graph);
    RowGraph<T> row{p.graph, tiles.graph, shared_memory()};
    row.read_joints(x, b);
    row.read_entries(b);
    if (tiles.resident)
        for (int k = 0; k < parts; ++k) lay_out_weights<Tile>(p, k, column, 0, right + k * Tile::right_numbers);
    for (int place = thread; p.bias && place < parts * Tile::columns; place += threads) {
        const int k = place / Tile::columns, o = column + place % Tile::columns;
        bias[place] = o < p.outs ? to_float(load(p.bias + std::int64_t{k} * p.outs + o)) : 0;
    }
    if (x.scale && x.channels <= chunk) lay_out_scales(x, row, 0, scales);
    if (thread < 9) {
        const int e = thread / 3, c = thread % 3;
        const float* of_clip = x.view.transform + n * x.view.transform_stride;
        turn[thread] = e < x.view.dims && c < x.view.dims ? load(of_clip + e * x.view.dims + c) : 0;
    }
    block_barrier();
    for (int tile = cut; tile < tiles.frame_tiles * tiles.joint_tiles; tile += tiles.cuts) {
        const int frame = tile / tiles.joint_tiles * tiles.frames, joint = tile % tiles.joint_tiles * tiles.joints;
        const int frames = x.frames - frame < tiles.frames ? x.frames - frame : tiles.frames;
        const int joints = x.joints - joint < tiles.joints ? x.joints - joint : tiles.joints;
        for (int i = thread; i < frames; i += threads) at_frames[i] = static_cast<std::int32_t>(x.frame(n, frame + i));
        Tile sums;
        sums.clear();
        int step = 0;
        for (int begin = 0; begin < x.channels; begin += chunk) {
            if (x.scale && x.channels > chunk) lay_out_scales(x, row, begin, scales);
            block_barrier();
            lay_out(x, row, x.body(b), turn, at_frames, frames, begin, scales, read);
            for (int k = 0; k < parts; ++k) {
                Storage* weights = right + (tiles.resident ? k : step++ % 2) * Tile::right_numbers;
                if (!tiles.resident) lay_out_weights<Tile>(p, k, column, begin, weights);
                block_barrier();  // x̂ is there, and the product before is made
                ASMA_ROLLED
                for (int at = thread; at < places * chunk; at += threads) {
                    const int place = at / chunk, c = at % chunk;
                    float z = 0;
                    if (place < frames * joints) {
                        const float* from = read + place / joints * x.joints * chunk + c;
                        z = row.gather(k, joint + place % joints, [&](int v) { return from[v * chunk]; });
                    }
                    left[at] = Tile::round(z);
                }
                block_barrier();
                sums.multiply(left, weights);
            }
        }
        sums.finish(shared_at<float>(tiles.scratch), [&](int place, int o, float sum) {
            if (place >= frames * joints || column + o >= p.outs) return;
            const int w = joint + place % joints;
            ASMA_ROLLED
            for (int k = 0; k < parts && p.bias; ++k) {
                const float entries = row.sums()[k * x.joints + w];
                if (entries != 0) sum += entries * bias[k * Tile::columns + o];
            }
            const std::int64_t to = (std::int64_t{b} * x.frames + frame + place / joints) * x.joints + w;
            store(out + to * p.outs + column + o, from_float<Out>(sum));
        });
        block_barrier();
    }
}

}  // namespace

template <class T, class Out>
void convolve_graph(const char* op, const GraphProduct<T>& p, Out* out, bool use_tf32, std::uintptr_t stream) {
    if (p.source.rows == 0 || p.source.frames == 0 || p.source.joints == 0 || p.outs == 0) return;
    with_product<T>(use_tf32, p.outs, [&](auto* number, auto columns) {
        using Tile = Product<std::remove_pointer_t<decltype(number)>, places, columns.value>;
        const Tiles tiles = plan<Tile>(p);
        const std::int64_t blocks = p.source.rows * tiles.cuts * tiles.column_tiles;
        launch({op, blocks, threads, tiles.shared, stream}, convolve_tiles<T, Out, Tile>, p, tiles, out);
    });
}

template void convolve_graph(const char*, const GraphProduct<float>&, float*, bool, std::uintptr_t);
template void convolve_graph(const char*, const GraphProduct<half>&, half*, bool, std::uintptr_t);
template void convolve_graph(const char*, const GraphProduct<half>&, float*, bool, std::uintptr_t);
template void convolve_graph(const char*, const GraphProduct<bfloat16>&, bfloat16*, bool, std::uintptr_t);
template void convolve_graph(const char*, const GraphProduct<bfloat16>&, float*, bool, std::uintptr_t);

namespace {

template <class T>
const T* parameter(const Map& array, std::int64_t lines, std::int64_t numbers, const char* what, std::int32_t device) {
    if (!array) return nullptr;
    check_sizes(*array, {lines, numbers}, what);
    if (!array->dense({0, 1})) throw std::invalid_argument(std::string(what) + " must be dense");
    return array->data<const T>(what, device);
}

template <class T> Source<T> source_of(const GraphArguments& a) {
    const Array& x = a.x;
    Source<T> source{};
    if (x.rank == 5) {
        source.x = clip_of<const T>(x, "x", x.device);
        source.view = view_maps(a.frames, a.joints, a.transform, x.device);
        source.bodies = static_cast<int>(x.size(4));
    } else if (x.rank == 4 && !a.frames && !a.joints && !a.transform) {
        source.x = {x.data<const T>("x", x.device), x.stride(0), x.stride(1), x.stride(2), x.stride(3), 0};
        source.bodies = 1;
    } else {
        throw std::invalid_argument("x must be a map of rank 4, or a clip of rank 5, which a view may read");
    }
    source.rows = x.size(0) * source.bodies, source.channels = static_cast<int>(x.size(1));
    source.x_frames = static_cast<int>(x.size(2)), source.x_joints = static_cast<int>(x.size(3));
    source.frames = a.frames ? static_cast<int>(a.frames->size(1)) : source.x_frames;
    source.joints = a.joints ? static_cast<int>(a.joints->size(1)) : source.x_joints;
    const std::int64_t graph = a.adjacency.size(a.adjacency.rank - 1);
    if (bool(a.scale) != bool(a.shift)) throw std::invalid_argument("scale and shift must be given together");
    source.scale = parameter<T>(a.scale, graph, x.size(1), "scale", x.device);
    source.shift = parameter<T>(a.shift, graph, x.size(1), "shift", x.device);
    return source;
}

template <class T> Graph<T> graph_of(const GraphArguments& a, const Source<T>& source) {
    const Array& adjacency = a.adjacency;
    const int first = adjacency.rank == 4 ? 1 : 0;
    const std::int64_t k = a.weight.size(0), size = adjacency.size(adjacency.rank - 1);
    Graph<T> graph{};
    if (first)
        check_sizes(adjacency, {source.rows, k, size, size}, "adjacency");
    else
        check_sizes(adjacency, {k, size, size}, "adjacency");
    graph.adjacency = adjacency.data<const T>("adjacency", a.x.device);
    graph.row = first ? adjacency.stride(0) : 0, graph.part = adjacency.stride(first);
    graph.source = adjacency.stride(first + 1), graph.target = adjacency.stride(first + 2);
    graph.size = size, graph.joints = source.joints, graph.parts = static_cast<int>(k);
    graph.rows_per_nodes = 1;
    if (a.nodes) {
        const std::int64_t rows = a.nodes->size(0);
        if (a.nodes->rank != 2 || a.nodes->size(1) != source.joints || !a.nodes->dense({1}) ||
            (rows == 0 ? source.rows != 0 : source.rows % rows != 0))
            throw std::invalid_argument("nodes have not the shape that follows from x");
        graph.nodes = a.nodes->data<const std::int32_t>("nodes", a.x.device);
        graph.nodes_stride = a.nodes->stride(0);
        if (rows > 0 && source.rows > 0) graph.rows_per_nodes = static_cast<int>(source.rows / rows);
    } else if (size != source.joints) {
        throw std::invalid_argument("without nodes there must be as many joints as nodes");
    }
    if (a.pattern) {
        check_sizes(*a.pattern, {k, size, size}, "pattern");
        graph.pattern = a.pattern->data<const bool>("pattern", a.x.device);
        graph.pattern_part = a.pattern->stride(0), graph.pattern_source = a.pattern->stride(1);
        graph.pattern_target = a.pattern->stride(2);
    }
    return graph;
}

}  // namespace

template <class T> GraphProduct<T> graph_product(const GraphArguments& a, const Array& out, const char* what) {
    if (a.adjacency.rank != 3 && a.adjacency.rank != 4)
        throw std::invalid_argument("adjacency must have shape (K, V, V) or (B, K, V, V)");
    if (a.weight.rank != 3 || !a.weight.dense({0, 1, 2}) || a.x.rank < 2 || a.weight.size(2) != a.x.size(1))
        throw std::invalid_argument("weight must be dense, of shape (K, C_out, C)");
    for (const Array* one : {&a.x, &out, &a.weight})
        for (int axis = 0; axis < one->rank; ++axis)
            check_places(one->size(axis), "arrays have an axis of more numbers");
    GraphProduct<T> p{};
    p.source = source_of<T>(a);
    p.graph = graph_of<T>(a, p.source);
    const Source<T>& x = p.source;
    check_sizes(out, {x.rows, a.weight.size(1), x.frames, x.joints}, what);
    if (!out.dense({0, 2, 3, 1})) throw std::invalid_argument(std::string(what) + " must be dense as (B, T, V, C)");
    check_places(x.rows * x.frames * x.joints, "maps have more places");
    if (p.graph.size > 0 && p.graph.parts > (std::int64_t{1} << 30) / p.graph.size / p.graph.size)
        throw std::length_error("graph_conv: must be at most 2^30 entries of a graph for CUDA");
    if (x.joints > most_joints || p.graph.parts > most_parts || x.joints * p.graph.parts > most_targets)
        throw std::invalid_argument("graph_conv: must be at most " + std::to_string(most_joints) + " joints, " +
                                    std::to_string(most_parts) + " parts and " + std::to_string(most_targets) +
                                    " joints times parts for CUDA, got " + std::to_string(x.joints) + " joints and " +
                                    std::to_string(p.graph.parts) + " parts");
    check_places(p.graph.size * x.channels, "scales have more numbers");
    p.weight = a.weight.data<const T>("weight", a.x.device);
    p.bias = parameter<T>(a.bias, a.weight.size(0), a.weight.size(1), "bias", a.x.device);
    p.w_part = a.weight.size(1) * a.weight.size(2), p.w_out = a.weight.size(2), p.w_in = 1;
    p.outs = static_cast<int>(a.weight.size(1));
    return p;
}

template GraphProduct<float> graph_product(const GraphArguments&, const Array&, const char*);
template GraphProduct<half> graph_product(const GraphArguments&, const Array&, const char*);
template GraphProduct<bfloat16> graph_product(const GraphArguments&, const Array&, const char*);

void graph_conv(const Array& x, const Array& weight, const Array& adjacency, const Map& bias, const Map& frames,
                const Map& joints, const Map& nodes, const Map& transform, const Map& scale, const Map& shift,
                const Map& pattern, const Array& out, bool use_tf32) {
    with_float(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const GraphArguments arguments{x,     weight,    adjacency, bias,  frames, joints,
                                       nodes, transform, scale,     shift, pattern};
        convolve_graph("graph_conv", graph_product<T>(arguments, out, "out"), out.data<T>("out", x.device), use_tf32,
                       x.stream);
    });
}

}  // namespace asma::cuda
