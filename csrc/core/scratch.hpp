// Uninitialised working memory of one call, aligned for any vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace asma {

template <class T> class Scratch {
public:
    static constexpr std::size_t alignment = 64;

    explicit Scratch(std::int64_t count)
        : data_(static_cast<T*>(
              ::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t(alignment)))) {}
    ~Scratch() { ::operator delete(data_, std::align_val_t(alignment)); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    T* data() { return data_; }

private:
    T* data_;
};

}  // namespace asma
