// Memory of large results, kept for the next ones. A fresh page costs a fault each time the system hands it out, on a
// virtual machine more than filling it; a training step asks for the same sizes again and again.
//
// Blocks are whole huge pages (2 MB), marked as such. The pool never holds more than was once in use at the same time,
// and gives back what lay idle for some seconds whenever it is asked for something.
#pragma once

#include <cstddef>

namespace asma {

// Below it the C library's own heap does as well.
constexpr std::size_t pooled_bytes = std::size_t{2} << 20;

// Uninitialised, aligned to a huge page; null where the system has no more, the size is below pooled_bytes, or the pool
// is off: ASMA_MEMORY_POOL=0, under AddressSanitizer (which sees no end of a block), or where there is no mmap.
void* acquire_pooled(std::size_t bytes) noexcept;

// Of a pointer that acquire_pooled gave; from any thread.
void release_pooled(void* block) noexcept;

struct PoolSize {
    std::size_t used, idle;  // bytes
};
PoolSize pool_size() noexcept;

}  // namespace asma
