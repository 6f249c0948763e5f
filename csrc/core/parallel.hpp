// The only place that knows threads. Work is cut by its shape, never by the number of threads, so that results do
// not depend on it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace asma {

// Looks for an OpenMP runtime in the process and takes it for our pool, torch's before any other. Done once at first
// use; to be called again when torch has been imported since.
void adopt_thread_pool();

// Threads a parallel_for may use now: that runtime's setting for the calling thread; without one set_num_threads, else
// ASMA_NUM_THREADS, else the CPUs this process may run on. 1 in a forked child.
int num_threads();

// The OpenMP runtime's when one was adopted (torch.set_num_threads and this agree), else ours.
void set_num_threads(int threads);

// The path of the OpenMP runtime, or "std::thread".
const char* thread_pool_name();

namespace detail {
using RangeBody = void (*)(void* context, std::int64_t begin, std::int64_t end);
void parallel_for(std::int64_t count, std::int64_t grain, RangeBody body, void* context);
}  // namespace detail

// Calls body(begin, end) over [0, count) in pieces of `grain` (the last may be shorter), in any order and on any
// thread; an exception from body is rethrown here. Nested calls run on the calling thread.
template <class Body> void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    using Context = std::remove_reference_t<Body>;
    detail::parallel_for(
        count, grain,
        [](void* context, std::int64_t begin, std::int64_t end) { (*static_cast<Context*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace asma
