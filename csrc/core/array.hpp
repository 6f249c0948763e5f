// The one struct through which NumPy arrays, CPU tensors and CUDA tensors reach native code.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace asma {

enum class DType : std::uint8_t { f32, f64, f16, bf16, i32, i64, u8, boolean };

inline const char* name(DType dtype) {
    constexpr std::array names{"float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool"};
    return names[static_cast<std::size_t>(dtype)];
}

template <class T> struct dtype_of;
template <> struct dtype_of<float> { static constexpr DType value = DType::f32; };
template <> struct dtype_of<double> { static constexpr DType value = DType::f64; };
template <> struct dtype_of<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct dtype_of<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct dtype_of<std::uint8_t> { static constexpr DType value = DType::u8; };
template <> struct dtype_of<bool> { static constexpr DType value = DType::boolean; };

// A borrowed, strided array. Sizes and strides count elements; a stride may be zero (broadcast) or negative.
struct Array {
    static constexpr int max_rank = 6;

    std::uintptr_t address = 0;
    std::uintptr_t stream = 0;  // of a CUDA array; 0 elsewhere
    std::array<std::int64_t, max_rank> sizes{};
    std::array<std::int64_t, max_rank> strides{};
    std::int32_t rank = 0;
    std::int32_t device = -1;  // CUDA ordinal; -1 is the CPU
    DType dtype = DType::f32;

    std::int64_t size(int axis) const { return sizes[static_cast<std::size_t>(axis)]; }
    std::int64_t stride(int axis) const { return strides[static_cast<std::size_t>(axis)]; }

    std::int64_t count() const {
        std::int64_t product = 1;
        for (int axis = 0; axis < rank; ++axis) product *= size(axis);
        return product;
    }

    // Whether the axes, named from the slowest to the fastest, lie densely in memory. Axes of size 1 have no
    // stride worth asking about, nor has an empty array.
    bool dense(std::initializer_list<int> slowest_first) const {
        if (count() == 0) return true;
        std::int64_t expected = 1;
        for (auto axis = slowest_first.end(); axis != slowest_first.begin();) {
            --axis;
            if (size(*axis) != 1 && stride(*axis) != expected) return false;
            expected *= size(*axis);
        }
        return true;
    }

    // The address as T*, after the checks that no native entry goes without: dtype, device, alignment.
    template <class T> T* data(const char* what, std::int32_t on = -1) const {
        if (dtype != dtype_of<std::remove_const_t<T>>::value)
            throw std::invalid_argument(std::string(what) + " must be " + name(dtype_of<std::remove_const_t<T>>::value) +
                                        ", got " + name(dtype));
        if (device != on)
            throw std::invalid_argument(std::string(what) + " must be on " +
                                        (on == -1 ? "the CPU" : "CUDA device " + std::to_string(on)));
        if (address % alignof(T) != 0)
            throw std::invalid_argument(std::string(what) + " must be aligned to its element size");
        return reinterpret_cast<T*>(address);
    }
};

}  // namespace asma
