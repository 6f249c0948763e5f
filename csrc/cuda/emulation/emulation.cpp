#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda/emulation/device.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(ASMA_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace asma::cuda {

Place threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr std::size_t stack_bytes = 256 * 1024;
constexpr int most_threads = 1024;

// ---- what the sanitizers are told; nothing where there is none ----

struct SanitizedFiber {
    void* thread = nullptr;  // ThreadSanitizer's
    void* fake_stack = nullptr;
    const void* stack = nullptr;
    std::size_t size = 0;
};

void* new_thread() {
#if defined(ASMA_TSAN)
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

void* current_thread() {
#if defined(ASMA_TSAN)
    return __tsan_get_current_fiber();
#else
    return nullptr;
#endif
}

// What was done before is seen by whoever acquires; the switch itself orders nothing.
void release([[maybe_unused]] void* what) {
#if defined(ASMA_TSAN)
    __tsan_release(what);
#endif
}

void acquire([[maybe_unused]] void* what) {
#if defined(ASMA_TSAN)
    __tsan_acquire(what);
#endif
}

void leaves([[maybe_unused]] SanitizedFiber& from, [[maybe_unused]] const SanitizedFiber& to,
            [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack, to.size);
#endif
#if defined(ASMA_TSAN)
    __tsan_switch_to_fiber(to.thread, __tsan_switch_to_fiber_no_sync);
#endif
}

void arrives([[maybe_unused]] SanitizedFiber& at, [[maybe_unused]] SanitizedFiber* from) {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(at.fake_stack, &stack, &size);
    if (from && !from->stack) from->stack = stack, from->size = size;
#endif
}

// ---- fibers ----

enum class State : std::uint8_t { ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
    ucontext_t context{};
    unsigned char* stack = nullptr;
    SanitizedFiber sanitized;
    State state = State::ready;
    bool orders = false;  // of the barrier at which it waits
    std::uint64_t word = 0;

    Fiber() {
        void* memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        stack = static_cast<unsigned char*>(memory);
        sanitized.stack = stack, sanitized.size = stack_bytes;
        sanitized.thread = new_thread();
    }
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber() { munmap(stack, stack_bytes); }
};

struct Device {
    Traffic traffic;
    std::uint64_t random = 0x9E3779B97F4A7C15u;
    std::vector<std::unique_ptr<Fiber>> fibers;
    // New for each block, and kept until the launch ends: what one block left there no other sees.
    std::vector<std::unique_ptr<unsigned char[]>> shared;
    ucontext_t scheduler{};
    SanitizedFiber host;
    const std::function<void()>* thread = nullptr;
    std::exception_ptr failure;
    int running = 0, count = 0;
    bool busy = false;
    // Addresses alone count: what a block's start, its barriers, each warp's and the launch's end order.
    char starts = 0, block_order = 0, ends = 0;
    char warp_order[most_threads / warp_size]{};
};

Device& device() {
    static Device one;
    return one;
}

std::uint64_t draw(std::uint64_t below) {
    std::uint64_t& x = device().random;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x % below;
}

void to_scheduler(Fiber& fiber, bool for_good) {
    Device& d = device();
    leaves(fiber.sanitized, d.host, for_good);
    if (for_good)
        setcontext(&d.scheduler);
    else
        swapcontext(&fiber.context, &d.scheduler);
    arrives(fiber.sanitized, nullptr);
}

void enter() {
    Device& d = device();
    Fiber& fiber = *d.fibers[static_cast<std::size_t>(d.running)];
    arrives(fiber.sanitized, &d.host);
    acquire(&d.starts);
    try {
        (*d.thread)();
    } catch (...) {
        if (!d.failure) d.failure = std::current_exception();
    }
    release(&d.ends);
    fiber.state = State::done;
    to_scheduler(fiber, true);
}

void resume(int index) {
    Device& d = device();
    Fiber& fiber = *d.fibers[static_cast<std::size_t>(index)];
    d.running = index;
    threadIdx = {static_cast<unsigned>(index), 0, 0};
    leaves(d.host, fiber.sanitized, false);
    swapcontext(&d.scheduler, &fiber.context);
    arrives(d.host, nullptr);
}

// Whether all of [begin, end) wait at such a barrier; they then go on.
bool passes(int begin, int end, State barrier) {
    Device& d = device();
    for (int i = begin; i < end; ++i)
        if (d.fibers[static_cast<std::size_t>(i)]->state != barrier) return false;
    for (int i = begin; i < end; ++i) d.fibers[static_cast<std::size_t>(i)]->state = State::ready;
    return true;
}

void run_block(const Launch& how) {
    Device& d = device();
    d.shared.push_back(std::make_unique<unsigned char[]>(how.shared));
    std::fill_n(d.shared.back().get(), how.shared, static_cast<unsigned char>(0xFF));  // NaN, and no index
    release(&d.starts);
    for (int i = 0; i < d.count; ++i) {
        Fiber& fiber = *d.fibers[static_cast<std::size_t>(i)];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack, fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        fiber.sanitized.fake_stack = nullptr;
        fiber.state = State::ready;
    }
    std::vector<int> ready(static_cast<std::size_t>(d.count));
    std::iota(ready.begin(), ready.end(), 0);
    while (!d.failure) {
        while (!ready.empty() && !d.failure) {
            const auto place = static_cast<std::size_t>(draw(ready.size()));
            std::swap(ready[place], ready.back());
            const int next = ready.back();
            ready.pop_back();
            resume(next);
        }
        if (d.failure) break;
        for (int first = 0; first < d.count; first += warp_size)
            passes(first, std::min(first + warp_size, d.count), State::at_warp_barrier);
        passes(0, d.count, State::at_block_barrier);
        bool done = true;
        for (int i = 0; i < d.count; ++i) {
            const State state = d.fibers[static_cast<std::size_t>(i)]->state;
            if (state == State::ready) ready.push_back(i);
            done &= state == State::done;
        }
        if (done) break;
        if (ready.empty())
            throw std::logic_error(std::string(how.op) +
                                   ": a barrier is not reached by every thread of its block or warp");
    }
}

}  // namespace

void reseed(std::uint64_t seed) {
    device().random = seed * 0x9E3779B97F4A7C15u | 1;
}

void count(std::uint64_t loaded, std::uint64_t stored) {
    device().traffic.loaded += loaded, device().traffic.stored += stored;
}

Traffic take_traffic() {
    return std::exchange(device().traffic, {});
}

unsigned char* shared_memory() {
    return device().shared.back().get();
}

void barrier(bool of_block, bool orders_memory) {
    Device& d = device();
    Fiber& fiber = *d.fibers[static_cast<std::size_t>(d.running)];
    char* order = of_block ? &d.block_order : &d.warp_order[d.running / warp_size];
    if (orders_memory) release(order);
    fiber.state = of_block ? State::at_block_barrier : State::at_warp_barrier;
    to_scheduler(fiber, false);
    if (orders_memory) acquire(order);
}

std::uint64_t exchange(std::uint64_t word, int lane) {
    Device& d = device();
    const int first = d.running / warp_size * warp_size;
    d.fibers[static_cast<std::size_t>(d.running)]->word = word;
    barrier(false, false);
    const std::uint64_t theirs = d.fibers[static_cast<std::size_t>(first + lane)]->word;
    barrier(false, false);
    return theirs;
}

void run(const Launch& how, const std::function<void()>& thread) {
    Device& d = device();
    if (how.threads < 1 || how.threads > most_threads || how.threads % warp_size)
        throw std::invalid_argument(std::string(how.op) + ": a block must have whole warps, got " + how.text());
    if (d.busy) throw std::logic_error(std::string(how.op) + ": the emulated device runs one kernel at a time");
    const unsigned blocks = how.grid();
    while (static_cast<int>(d.fibers.size()) < how.threads) d.fibers.push_back(std::make_unique<Fiber>());
    d.busy = true, d.count = how.threads, d.thread = &thread, d.failure = nullptr;
    d.host.thread = current_thread();
    gridDim = {blocks, 1, 1}, blockDim = {static_cast<unsigned>(how.threads), 1, 1};
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
    try {
        for (const unsigned block : order) {
            blockIdx = {block, 0, 0};
            run_block(how);
            if (d.failure) break;
        }
    } catch (...) {
        d.failure = std::current_exception();
    }
    acquire(&d.ends);
    d.busy = false, d.shared.clear();
    if (d.failure) std::rethrow_exception(d.failure);
}

}  // namespace emulation

// ---- half precisions, rounded to the nearest even ----

float widen(half value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000) << 16;
    const std::uint32_t magnitude = value.bits & 0x7FFF;
    if (magnitude >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
    // As a float with the same bits the number is 2^-112 of what it should be, a subnormal one too.
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f));
}

half narrow_half(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), sign = bits >> 16 & 0x8000;
    const float magnitude = std::bit_cast<float>(bits & 0x7FFFFFFF);
    if (!(magnitude == magnitude)) return {static_cast<std::uint16_t>(sign | 0x7E00)};
    if (magnitude >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7C00)};
    if (magnitude < 0x1p-14f) {  // a multiple of 2^-24: adding 1/2 rounds it there
        const std::uint32_t rounded =
            std::bit_cast<std::uint32_t>(magnitude + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
        return {static_cast<std::uint16_t>(sign | rounded)};
    }
    const std::uint32_t exact = bits & 0x7FFFFFFF, odd = exact >> 13 & 1;
    return {static_cast<std::uint16_t>(sign | ((exact + 0xFFF + odd - (112u << 23)) >> 13))};
}

bfloat16 narrow_bfloat16(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    if (value != value) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

}  // namespace asma::cuda
