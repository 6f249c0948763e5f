// From the struct that arrays come as to what kernels read, after the checks that no entry goes without.
#pragma once

#include <string>
#include <type_traits>

#include "core/array.hpp"
#include "core/view_maps.hpp"
#include "cuda/ops.hpp"
#include "cuda/runtime.hpp"

namespace asma {

template <> struct dtype_of<cuda::half> {
    static constexpr DType value = DType::f16;
};
template <> struct dtype_of<cuda::bfloat16> {
    static constexpr DType value = DType::bf16;
};

namespace cuda {

// Calls body with a value of the array's type.
template <class Body> void with_float(const Array& array, const char* what, Body&& body) {
    if (array.dtype == DType::f32)
        body(float{});
    else if (array.dtype == DType::f16)
        body(half{});
    else if (array.dtype == DType::bf16)
        body(bfloat16{});
    else
        throw std::invalid_argument(std::string(what) + " must be float32, float16 or bfloat16 for CUDA, got " +
                                    name(array.dtype));
}

inline void check_sizes(const Array& array, std::initializer_list<std::int64_t> wanted, const char* what) {
    bool same = array.rank == static_cast<std::int32_t>(wanted.size());
    int axis = 0;
    for (const std::int64_t size : wanted) same = same && array.size(axis++) == size;
    if (!same) throw std::invalid_argument(std::string(what) + " has not the shape that follows from the others");
}

// Kernels count frames, and the numbers of one, in 32 bits, for a division of 64 is a call; addresses have 64.
inline void check_places(std::int64_t count, const char* more) {
    constexpr std::int64_t most = std::int64_t{1} << 30;
    if (count > most)
        throw std::length_error(std::string(more) + " than " + std::to_string(most) + ": " + std::to_string(count));
}

// The lowest digit of a number of that base, which is taken from it.
__device__ inline unsigned take_digit(unsigned& number, int base) {
    const unsigned digit = number % static_cast<unsigned>(base);
    number /= static_cast<unsigned>(base);
    return digit;
}

// A clip (N, C, T, V, M) by strides.
template <class T> struct Clip {
    T* data;
    std::int64_t clip, channel, frame, joint, body;  // strides
};

template <class T> Clip<T> clip_of(const Array& x, const char* what, std::int32_t device) {
    if (x.rank != 5) throw std::invalid_argument(std::string(what) + " must have shape (N, C, T, V, M)");
    return {x.data<T>(what, device), x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
}

// The maps of a view; the kernels check their entries.
inline ViewMaps<float> view_maps(const Map& frames, const Map& joints, const Map& transform, std::int32_t device) {
    ViewMaps<float> maps{};
    const auto row = [](const Array& map, const char* what) {
        if (map.rank == 2 ? !map.dense({1}) : !map.dense({1, 2}))
            throw std::invalid_argument(std::string(what) + " must be dense in its inner axes");
        return map.size(0) == 1 ? 0 : map.stride(0);
    };
    if (frames) {
        maps.frames = frames->data<const std::int32_t>("view.frames", device);
        maps.frames_stride = row(*frames, "view.frames");
    }
    if (joints) {
        maps.joints = joints->data<const std::int32_t>("view.joints", device);
        maps.joints_stride = row(*joints, "view.joints");
    }
    if (transform) {
        maps.transform = transform->data<const float>("view.transform", device);
        maps.transform_stride = row(*transform, "view.transform");
        maps.dims = transform->size(1);
        if (maps.dims != 2 && maps.dims != 3)
            throw std::invalid_argument("view.transform must be of 2 or 3 coordinates, got " +
                                        std::to_string(maps.dims));
    }
    return maps;
}

// Calls body with the number of coordinates that a transform turns as a constant: what is indexed by it stays in
// registers.
template <class Body> void with_dims(std::int64_t dims, Body&& body) {
    if (dims == 0)
        body(std::integral_constant<int, 0>{});
    else if (dims == 2)
        body(std::integral_constant<int, 2>{});
    else
        body(std::integral_constant<int, 3>{});
}

// The recorded place that position i of a map reads; the identity where there is no map. `uniform`: the same for a
// warp.
template <bool uniform = false>
__device__ inline std::int64_t mapped(const std::int32_t* map, std::int64_t i, std::int64_t limit, const char* what) {
    if (!map) return i;
    const std::int64_t place = uniform ? load_uniform(map + i) : load(map + i);
    check_index(place, limit, what);
    return place;
}

}  // namespace cuda
}  // namespace asma
