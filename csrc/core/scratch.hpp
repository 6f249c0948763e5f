// Uninitialised working memory of one call, aligned for any vector, and its size in numbers that cannot wrap around.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <new>
#include <stdexcept>

#include "core/memory_pool.hpp"

namespace asma {

[[noreturn]] inline void refuse_size() {
    throw std::length_error(
        "the working memory of a call must have a size that fits into 63 bits; the sizes given do not");
}

// std::length_error, Python's ValueError, where the product does not fit.
inline std::int64_t checked_product(std::initializer_list<std::int64_t> factors) {
    std::int64_t product = 1;
    for (const std::int64_t factor : factors)
        if (__builtin_mul_overflow(product, factor, &product)) refuse_size();
    return product;
}

inline std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
    std::int64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) refuse_size();
    return sum;
}

template <class T> class Scratch {
public:
    static constexpr std::size_t alignment = 64;

    explicit Scratch(std::int64_t count)
        : pooled_(acquire_pooled(bytes(count))),
          data_(static_cast<T*>(pooled_ ? pooled_ : ::operator new(bytes(count), std::align_val_t(alignment)))) {}
    ~Scratch() {
        if (pooled_)
            release_pooled(pooled_);
        else
            ::operator delete(data_, std::align_val_t(alignment));
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    T* data() { return data_; }

private:
    static std::size_t bytes(std::int64_t count) {
        constexpr std::int64_t most = std::numeric_limits<std::ptrdiff_t>::max() / static_cast<std::int64_t>(sizeof(T));
        if (count < 0 || count > most) refuse_size();
        return static_cast<std::size_t>(count) * sizeof(T);
    }

    void* pooled_;
    T* data_;
};

}  // namespace asma
