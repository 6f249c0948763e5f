// Whether the kernels can run here.
#include "cuda/ops.hpp"
#include "cuda/runtime.hpp"

namespace asma::cuda {
namespace {

__global__ void probe() {}

}  // namespace

std::string driver_why_not() {
    return driver_problem();
}

std::string device_why_not() {
    return kernel_problem(probe);
}

}  // namespace asma::cuda
