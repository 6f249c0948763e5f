#include "core/parallel.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <link.h>
#endif

namespace asma {
namespace {

std::atomic<bool> forked_child{false};
std::atomic<int> requested_threads{0};
thread_local bool inside_parallel_region = false;

// ---- the process's own OpenMP runtime, when one is loaded ----

struct OpenMp {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*max_threads)() = nullptr;
    void (*set_threads)(int) = nullptr;
    std::string path;
    bool loaded() const { return parallel != nullptr; }
};

OpenMp find_openmp() {
    OpenMp found;
#if defined(__linux__)
    // Wheels ship the runtime under mangled names (libgomp-1a2b3c.so.1) with local visibility, so neither the soname
    // nor the global scope would find it; and scikit-learn brings one of its own, so torch's is preferred by its path.
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* out) {
            const char* slash = std::strrchr(info->dlpi_name, '/');
            const char* file = slash ? slash + 1 : info->dlpi_name;
            if (std::strncmp(file, "libgomp", 7) != 0) return 0;
            auto& path = *static_cast<std::string*>(out);
            const bool of_torch =
                std::strstr(info->dlpi_name, "/torch/lib/") || std::strstr(info->dlpi_name, "/torch.libs/");
            if (path.empty() || of_torch) path = info->dlpi_name;
            return of_torch ? 1 : 0;
        },
        &found.path);
    if (found.path.empty()) return found;
    void* library = dlopen(found.path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return found;
    found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(library, "GOMP_parallel"));
    found.max_threads = reinterpret_cast<decltype(found.max_threads)>(dlsym(library, "omp_get_max_threads"));
    found.set_threads = reinterpret_cast<decltype(found.set_threads)>(dlsym(library, "omp_set_num_threads"));
    if (!found.max_threads || !found.set_threads) found.parallel = nullptr;
#endif
    return found;
}

std::atomic<const OpenMp*> adopted{nullptr};

const OpenMp& openmp() {
    const OpenMp* runtime = adopted.load(std::memory_order_acquire);
    if (!runtime) {
        adopt_thread_pool();
        runtime = adopted.load(std::memory_order_acquire);
    }
    return *runtime;
}

// ---- our own pool, when there is none ----

int available_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

int default_threads() {
    if (const char* text = std::getenv("ASMA_NUM_THREADS")) {
        const int threads = std::atoi(text);
        if (threads > 0) return threads;
    }
    return available_cpus();
}

class Pool {
public:
    // Runs task() on `threads` threads, the caller among them; on fewer where the system gives no more.
    void run(int threads, void (*task)(void*), void* context) {
        std::lock_guard<std::mutex> one_region_at_a_time(region_);
        grow(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = task;
            context_ = context;
            wanted_ = running_ = std::min(threads - 1, workers_);
            ++generation_;
        }
        wake_.notify_all();
        task(context);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

private:
    void grow(int workers) {
        while (workers_ < workers) {
            try {
                std::thread([this, index = workers_, seen = generation_] { work(index, seen); }).detach();
            } catch (const std::system_error&) {
                return;
            }
            ++workers_;
        }
    }

    void work(int index, std::uint64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (index >= wanted_) continue;
            auto task = task_;
            auto context = context_;
            lock.unlock();
            task(context);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex region_, mutex_;
    std::condition_variable wake_, done_;
    void (*task_)(void*) = nullptr;
    void* context_ = nullptr;
    int workers_ = 0, wanted_ = 0, running_ = 0;
    std::uint64_t generation_ = 0;
};

Pool& pool() {
    static Pool* instance = new Pool;  // never destroyed: its threads outlive static destruction
    return *instance;
}

[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked_child.store(true); });

}  // namespace

void adopt_thread_pool() {
    // The old record is leaked on purpose: another thread may be reading it, and there are at most a few in a process.
    adopted.store(new OpenMp(find_openmp()), std::memory_order_release);
}

int num_threads() {
    if (forked_child.load(std::memory_order_relaxed)) return 1;
    const OpenMp& runtime = openmp();
    if (runtime.loaded()) return std::max(1, runtime.max_threads());
    const int requested = requested_threads.load(std::memory_order_relaxed);
    if (requested > 0) return requested;
    static const int from_environment = default_threads();
    return from_environment;
}

void set_num_threads(int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    requested_threads.store(threads, std::memory_order_relaxed);
    if (openmp().loaded()) openmp().set_threads(threads);
}

const char* thread_pool_name() {
    return openmp().loaded() ? openmp().path.c_str() : "std::thread";
}

namespace detail {

void parallel_for(std::int64_t count, std::int64_t grain, RangeBody body, void* context) {
    if (count <= 0) return;
    grain = std::max<std::int64_t>(1, grain);
    const std::int64_t pieces = (count + grain - 1) / grain;
    const int threads = inside_parallel_region ? 1 : static_cast<int>(std::min<std::int64_t>(num_threads(), pieces));
    if (threads == 1) {
        for (std::int64_t begin = 0; begin < count; begin += grain)
            body(context, begin, std::min(count, begin + grain));
        return;
    }
    struct Region {
        std::atomic<std::int64_t> next{0};
        std::int64_t count, grain;
        RangeBody body;
        void* context;
        std::mutex mutex;
        std::exception_ptr error;
    } region;
    region.count = count;
    region.grain = grain;
    region.body = body;
    region.context = context;
    auto task = [](void* opaque) {
        Region& shared = *static_cast<Region*>(opaque);
        inside_parallel_region = true;
        try {
            for (;;) {
                const std::int64_t begin = shared.next.fetch_add(shared.grain, std::memory_order_relaxed);
                if (begin >= shared.count) break;
                shared.body(shared.context, begin, std::min(shared.count, begin + shared.grain));
            }
        } catch (...) {
            std::lock_guard<std::mutex> lock(shared.mutex);
            if (!shared.error) shared.error = std::current_exception();
            shared.next.store(shared.count, std::memory_order_relaxed);
        }
        inside_parallel_region = false;
    };
    const OpenMp& runtime = openmp();
    if (runtime.loaded())
        runtime.parallel(task, &region, static_cast<unsigned>(threads), 0);
    else
        pool().run(threads, task, &region);
    if (region.error) std::rethrow_exception(region.error);
}

}  // namespace detail
}  // namespace asma
