// Convolution along time. A block has up to 128 places (frame, joint) of a row and some channels of the result; of a
// channel chunk it lays out the frames that its taps read, those at the same distance one after the other, so that a
// tap's left side is a piece of them where it lies. Groups of few channels are plain sums, a number
// of the result by a thread.
#include "cuda/temporal_conv.hpp"

#include <algorithm>

#include "cuda/products.hpp"

namespace asma::cuda {
namespace {

constexpr int threads = product_threads, places = 128, chunk = product_depth;
constexpr std::int64_t most_laid_out = 32 * 1024;  // bytes; beyond it a tap at a time is laid out
constexpr int fewest_outs = 8;                     // of a group's channels for a product of tiles

// How the places of a row are cut, and what is laid out of x for them.
struct Tiles {
    int frames, joints;  // of a tile
    int frame_tiles, joint_tiles, column_tiles;
    int phases, phase_frames;  // what all taps read, by frame modulo x_step; 0 phases: a tap at a time
    int left, right, scratch;  // where in shared memory
    std::size_t shared;
};

template <class Tile> Tiles plan(std::int64_t steps, std::int64_t x_step, std::int64_t reach, int joints, int outs) {
    Tiles tiles{};
    tiles.joints = std::min(joints, places);
    tiles.frames = joints <= places ? static_cast<int>(std::min<std::int64_t>(places / joints, steps)) : 1;
    tiles.joint_tiles = (joints + tiles.joints - 1) / tiles.joints;
    tiles.frame_tiles = static_cast<int>((steps + tiles.frames - 1) / tiles.frames);
    tiles.column_tiles = (outs + Tile::columns - 1) / Tile::columns;
    const auto bytes = [&](std::int64_t rows) {
        return (rows + places) * chunk * std::int64_t{sizeof(typename Tile::Storage)};
    };
    std::int64_t rows = tiles.frames * tiles.joints;
    const std::int64_t most = most_laid_out / chunk;  // frames, whatever they are of
    if (x_step <= most && reach <= most) {
        const std::int64_t window = (tiles.frames - 1) * x_step + reach + 1;
        const std::int64_t phase_frames = (window + x_step - 1) / x_step;
        if (bytes(x_step * phase_frames * tiles.joints) <= most_laid_out) {
            tiles.phases = static_cast<int>(x_step), tiles.phase_frames = static_cast<int>(phase_frames);
            rows = x_step * phase_frames * tiles.joints;
        }
    }
    SharedPlan shared;
    tiles.left = shared.take(bytes(rows));
    tiles.right = shared.take(2 * Tile::right_numbers * std::int64_t{sizeof(typename Tile::Storage)});
    tiles.scratch = shared.take(Tile::scratch_bytes);
    tiles.shared = shared.total();
    return tiles;
}

// Frames `first + i·step` of a row, channels [begin, begin + 16) of a group: frame i lies at slot(i).
template <class Tile, class T, class Slot>
__device__ inline void lay_out_frames(const Convolution<T>& p, const Tiles& tiles, const T* row, std::int64_t first,
                                      std::int64_t step, int count, int joint, int begin, const Slot& slot,
                                      typename Tile::Storage* left) {
    const int joints = p.joints - joint < tiles.joints ? p.joints - joint : tiles.joints;
    const int each = joints * chunk;
    for (int place = static_cast<int>(threadIdx.x); place < count * each; place += threads) {
        const int frame = place / each, v = place % each / chunk, c = begin + place % chunk;
        const std::int64_t t = first + frame * step;
        float value = 0;
        if (t >= 0 && t < p.frames && c < p.ins)
            value = to_float(load(row + (t * p.joints + joint + v) * (std::int64_t{p.groups} * p.ins) + c));
        left[(slot(frame) * tiles.joints + v) * chunk + place % chunk] = Tile::round(value);
    }
}

template <class Tile, class T> __device__ inline void lay_out_weights(const Convolution<T>& p, const T* weight,
                                                                      int column, int begin, int tap,
                                                                      typename Tile::Storage* right) {
    const T* from = weight + column * p.w_out + begin * p.w_in + tap * p.w_tap;
    lay_out_right<Tile>(from, p.w_out, p.w_in, p.outs - column, p.ins - begin, right);
}

template <class T, class Tile> __global__ void __launch_bounds__(threads, 2)
    convolve_tiles(Convolution<T> p, Tiles tiles) {
    using Storage = typename Tile::Storage;
    auto* left = shared_at<Storage>(tiles.left);
    auto* right = shared_at<Storage>(tiles.right);
    unsigned rest = blockIdx.x;
    const int column = static_cast<int>(take_digit(rest, tiles.column_tiles)) * Tile::columns;
    const int group = static_cast<int>(take_digit(rest, p.groups));
    const int joint = static_cast<int>(take_digit(rest, tiles.joint_tiles)) * tiles.joints;
    const std::int64_t frame = std::int64_t{take_digit(rest, tiles.frame_tiles)} * tiles.frames, b = rest;
    const T* row = p.x + b * p.frames * p.joints * (std::int64_t{p.groups} * p.ins) + std::int64_t{group} * p.ins;
    const T* weight = p.weight + group * p.w_group;
    const std::int64_t x_frame = frame * p.x_step + p.x_first;

    Tile sums;
    sums.clear();
    for (int begin = 0; begin < p.ins && p.taps > 0; begin += chunk) {
        block_barrier();
        if (tiles.phases > 0) {
            const auto slot = [&](int i) { return i % tiles.phases * tiles.phase_frames + i / tiles.phases; };
            lay_out_frames<Tile>(p, tiles, row, x_frame, 1, tiles.phases * tiles.phase_frames, joint, begin, slot,
                                 left);
        }
        lay_out_weights<Tile>(p, weight, column, begin, 0, right);
        for (int tap = 0; tap < p.taps; ++tap) {
            const Storage* from = left;
            if (tiles.phases > 0) {
                const int distance = tap * static_cast<int>(p.x_dilation);
                from += (distance % tiles.phases * tiles.phase_frames + distance / tiles.phases) * tiles.joints * chunk;
            } else {
                block_barrier();  // the product of the tap before is made
                const auto slot = [](int i) { return i; };
                lay_out_frames<Tile>(p, tiles, row, x_frame + tap * p.x_dilation, p.x_step, tiles.frames, joint, begin,
                                     slot, left);
            }
            block_barrier();
            // The next tap's weights come while this one's are multiplied.
            if (tap + 1 < p.taps)
                lay_out_weights<Tile>(p, weight, column, begin, tap + 1, right + (tap + 1) % 2 * Tile::right_numbers);
            sums.multiply(from, right + tap % 2 * Tile::right_numbers);
        }
    }
    sums.finish(shared_at<float>(tiles.scratch), [&](int place, int o, float sum) {
        const std::int64_t i = frame + place / tiles.joints;
        const int v = joint + place % tiles.joints;
        if (place >= tiles.frames * tiles.joints || i >= p.steps || v >= p.joints || column + o >= p.outs) return;
        const std::int64_t channel = std::int64_t{group} * p.outs + column + o;
        if (p.bias) sum += to_float(load(p.bias + channel));
        const std::int64_t to = (b * p.out_frames + p.first + i * p.step) * p.joints + v;
        store(p.out + to * (std::int64_t{p.groups} * p.outs) + channel, from_float<T>(sum));
    });
}

// A warp has a place, its threads a channel at a time.
template <class T> __global__ void __launch_bounds__(threads) convolve_narrow(Convolution<T> p, unsigned count) {
    constexpr unsigned warps = threads / warp_size;
    const int outs = p.groups * p.outs;
    const std::int64_t ins = std::int64_t{p.groups} * p.ins;
    for (unsigned place = blockIdx.x * warps + threadIdx.x / warp_size; place < count; place += gridDim.x * warps) {
        unsigned rest = place;
        const int v = static_cast<int>(take_digit(rest, p.joints));
        const std::int64_t i = take_digit(rest, static_cast<int>(p.steps)), b = rest;
        const T* row = p.x + b * p.frames * p.joints * ins;
        T* to = p.out + ((b * p.out_frames + p.first + i * p.step) * p.joints + v) * outs;
        for (int channel = static_cast<int>(threadIdx.x) % warp_size; channel < outs; channel += warp_size) {
            const int group = channel / p.outs, o = channel % p.outs;
            const T* weight = p.weight + group * p.w_group + o * p.w_out;
            float sum = p.bias ? to_float(load(p.bias + channel)) : 0;
            for (int tap = 0; tap < p.taps; ++tap) {
                const std::int64_t t = i * p.x_step + p.x_first + tap * p.x_dilation;
                if (t < 0 || t >= p.frames) continue;
                const T* from = row + (t * p.joints + v) * ins + std::int64_t{group} * p.ins;
                for (int c = 0; c < p.ins; ++c)
                    sum += to_float(load(weight + c * p.w_in + tap * p.w_tap)) * to_float(load(from + c));
            }
            store(to + channel, from_float<T>(sum));
        }
    }
}

}  // namespace

template <class T> void convolve(const char* op, Convolution<T> p, bool use_tf32, std::uintptr_t stream) {
    const std::int64_t count = p.rows * p.steps * p.joints;
    check_places(std::max(count, p.rows * p.frames * p.joints), "maps have more places");
    if (count == 0 || p.outs == 0) return;
    if ((p.groups > 1 && p.outs < fewest_outs) || p.taps == 0 || p.ins == 0) {
        launch({op, blocks_for(count, threads / warp_size), threads, 0, stream}, convolve_narrow<T>, p,
               static_cast<unsigned>(count));
        return;
    }
    with_product<T>(use_tf32, p.outs, [&](auto* number, auto columns) {
        using Tile = Product<std::remove_pointer_t<decltype(number)>, places, columns.value>;
        const Tiles tiles = plan<Tile>(p.steps, p.x_step, (p.taps - 1) * p.x_dilation, p.joints, p.outs);
        const std::int64_t blocks = p.rows * tiles.frame_tiles * tiles.joint_tiles * p.groups * tiles.column_tiles;
        launch({op, blocks, threads, tiles.shared, stream}, convolve_tiles<T, Tile>, p, tiles);
    });
}

template void convolve(const char*, Convolution<float>, bool, std::uintptr_t);
template void convolve(const char*, Convolution<half>, bool, std::uintptr_t);
template void convolve(const char*, Convolution<bfloat16>, bool, std::uintptr_t);

void temporal_conv(const Array& x, const Array& weight, const Map& bias, std::int64_t stride, std::int64_t left,
                   std::int64_t dilation, std::int64_t groups, const Array& out, bool use_tf32) {
    with_float(x, "x", [&](auto zero) {
        using T = decltype(zero);
        check_convolution(x, out, weight, groups);
        Convolution<T> p{};
        p.x = x.data<const T>("x", x.device), p.weight = weight.data<const T>("weight", x.device);
        if (bias) {
            check_sizes(*bias, {weight.size(0)}, "bias");
            if (!bias->dense({0})) throw std::invalid_argument("bias must be dense");
            p.bias = bias->data<const T>("bias", x.device);
        }
        p.out = out.data<T>("out", x.device);
        p.rows = x.size(0), p.frames = x.size(2), p.out_frames = p.steps = out.size(2);
        p.first = 0, p.step = 1, p.x_first = -left, p.x_step = stride, p.x_dilation = dilation;
        p.joints = static_cast<int>(x.size(3)), p.groups = static_cast<int>(groups);
        p.ins = static_cast<int>(weight.size(1)), p.outs = static_cast<int>(weight.size(0) / groups);
        p.taps = static_cast<int>(weight.size(2));
        p.w_group = p.outs * weight.stride(0), p.w_out = weight.stride(0), p.w_in = weight.stride(1);
        p.w_tap = weight.stride(2);
        convolve("temporal_conv", p, use_tf32, x.stream);
    });
}

}  // namespace asma::cuda
