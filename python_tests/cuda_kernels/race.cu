// A sum over a block's threads, with a barrier missing where RACE is defined: whether ThreadSanitizer sees it on the
// emulated device.
#include "cuda/runtime.hpp"

namespace {

using namespace asma::cuda;

__global__ void reverse(const float* from, float* to) {
    auto* turned = reinterpret_cast<float*>(shared_memory());
    turned[threadIdx.x] = load(from + threadIdx.x);
#if !defined(RACE)
    block_barrier();
#endif
    store(to + threadIdx.x, turned[blockDim.x - 1 - threadIdx.x]);
}

}  // namespace

int main() {
    float from[64], to[64];
    for (int i = 0; i < 64; ++i) from[i] = static_cast<float>(i);
    launch({"reverse", 1, 64, sizeof from, 0}, reverse, from, to);
    for (int i = 0; i < 64; ++i)
        if (to[i] != from[63 - i]) return 1;
    return 0;
}
