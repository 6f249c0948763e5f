// Whether the kernels can run here.
#include "cuda/ops.hpp"
#include "cuda/runtime.hpp"

namespace asma::cuda {

std::string why_not() {
    return device_problem();
}

}  // namespace asma::cuda
