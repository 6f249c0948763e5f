// Degrees of a graph that one block holds: an edge counts where no earlier one joins the same joints.
#include "cuda/arrays.hpp"

namespace asma::cuda {
namespace {

constexpr int threads = 256;

__global__ void degrees(const std::int64_t* edges, std::int64_t count, std::int64_t joints, std::int32_t* degree) {
    for (std::int64_t v = threadIdx.x; v < joints; v += blockDim.x) store(degree + v, 0);
    block_barrier();
    for (std::int64_t e = threadIdx.x; e < count; e += blockDim.x) {
        const std::int64_t a = load(edges + 2 * e), b = load(edges + 2 * e + 1);
        check_index(a, joints, "edges");
        check_index(b, joints, "edges");
        bool counts = a != b;
        for (std::int64_t i = 0; i < e && counts; ++i) {
            const std::int64_t c = load(edges + 2 * i), d = load(edges + 2 * i + 1);
            counts = !((a == c && b == d) || (a == d && b == c));
        }
        if (!counts) continue;
        add_atomically(degree + a, 1);
        add_atomically(degree + b, 1);
    }
}

}  // namespace

void joint_degree(const Array& edges, const Array& degree) {
    if (edges.rank != 2 || edges.size(1) != 2 || !edges.dense({0, 1}))
        throw std::invalid_argument("edges must be dense, of shape (E, 2)");
    if (degree.rank != 1 || !degree.dense({0})) throw std::invalid_argument("degree must be dense, of shape (V,)");
    launch({"joint_degree", degree.size(0) > 0, threads, 0, edges.stream}, degrees,
           edges.data<const std::int64_t>("edges", edges.device), edges.size(0), degree.size(0),
           degree.data<std::int32_t>("degree", edges.device));
}

}  // namespace asma::cuda
