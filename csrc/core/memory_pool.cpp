#include "core/memory_pool.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace asma {

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr auto longest_idle = std::chrono::seconds(5);

void* map_huge_pages(std::size_t bytes) {
    // One page more than asked for, so that a boundary of huge pages lies within; what is outside goes back.
    const std::size_t mapped = bytes + huge_page;
    void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    const auto first = reinterpret_cast<std::uintptr_t>(start);
    const std::uintptr_t block = (first + huge_page - 1) / huge_page * huge_page;
    if (block > first) munmap(start, block - first);
    const std::size_t after = first + mapped - (block + bytes);
    if (after > 0) munmap(reinterpret_cast<void*>(block + bytes), after);
    madvise(reinterpret_cast<void*>(block), bytes, MADV_HUGEPAGE);  // a wish: where it is refused, small pages serve
    return reinterpret_cast<void*>(block);
}

struct Block {
    void* address;
    std::size_t bytes;
    Clock::time_point since;  // idle
};

class Pool {
public:
    void* acquire(std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        used_.reserve(used_.size() + 1);
        idle_.reserve(idle_.size() + used_.size() + 1);  // so that release() has nothing that could fail
        drop_idle(Clock::now());
        Block block{nullptr, bytes, {}};
        // The newest of the smallest that fits and is not much too large: it is the likeliest to be in a cache.
        auto best = idle_.end();
        for (auto one = idle_.begin(); one != idle_.end(); ++one)
            if (one->bytes >= bytes && one->bytes <= bytes + bytes / 4 &&
                (best == idle_.end() || one->bytes <= best->bytes))
                best = one;
        if (best != idle_.end()) {
            block = *best;
            held_idle_ -= block.bytes;
            idle_.erase(best);
        } else {
            // Room within what was once in use, made by giving up the blocks that have been idle for longest.
            const std::size_t wanted = held_used_ + bytes;
            while (!idle_.empty() && wanted + held_idle_ > std::max(peak_, wanted)) drop_oldest();
            block.address = map_huge_pages(bytes);
            if (!block.address) return nullptr;
        }
        used_.push_back(block);
        held_used_ += block.bytes;
        peak_ = std::max(peak_, held_used_);
        return block.address;
    }

    void release(void* address) {
        const std::lock_guard lock(mutex_);
        const auto entry =
            std::find_if(used_.rbegin(), used_.rend(), [&](const Block& one) { return one.address == address; });
        entry->since = Clock::now();
        held_used_ -= entry->bytes;
        held_idle_ += entry->bytes;
        idle_.push_back(*entry);
        used_.erase(std::next(entry).base());
        drop_idle(idle_.back().since);
    }

    PoolSize size() {
        const std::lock_guard lock(mutex_);
        return {held_used_, held_idle_};
    }

    std::mutex& mutex() { return mutex_; }

private:
    void drop_oldest() {
        munmap(idle_.front().address, idle_.front().bytes);
        held_idle_ -= idle_.front().bytes;
        idle_.erase(idle_.begin());
    }

    void drop_idle(Clock::time_point now) {
        while (!idle_.empty() && now - idle_.front().since > longest_idle) drop_oldest();
    }

    std::mutex mutex_;
    std::vector<Block> used_, idle_;  // idle_: the one that has been idle for longest first
    std::size_t held_used_ = 0, held_idle_ = 0, peak_ = 0;
};

Pool& pool() {
    static Pool* instance = [] {
        auto* made = new Pool;  // never destroyed: arrays may outlive static destruction
        // A child must not inherit a lock that another thread of its parent holds.
        pthread_atfork([] { pool().mutex().lock(); }, [] { pool().mutex().unlock(); }, [] { pool().mutex().unlock(); });
        return made;
    }();
    return *instance;
}

bool pool_is_on() {
    static const bool on = [] {
        const char* text = std::getenv("ASMA_MEMORY_POOL");
        return !text || std::string_view(text) != "0";
    }();
    return on;
}

}  // namespace

void* acquire_pooled(std::size_t bytes) noexcept {
    if (bytes < pooled_bytes || bytes > SIZE_MAX / 2 || !pool_is_on()) return nullptr;
    try {
        return pool().acquire((bytes + huge_page - 1) / huge_page * huge_page);
    } catch (...) {  // no memory for the pool's own books
        return nullptr;
    }
}

void release_pooled(void* block) noexcept {
    pool().release(block);
}

PoolSize pool_size() noexcept {
    return pool_is_on() ? pool().size() : PoolSize{0, 0};
}

#else

void* acquire_pooled(std::size_t) noexcept {
    return nullptr;
}
void release_pooled(void*) noexcept {}
PoolSize pool_size() noexcept {
    return {0, 0};
}

#endif

}  // namespace asma
