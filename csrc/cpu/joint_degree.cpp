#include "cpu/joint_degree.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace asma::cpu {

void joint_degree(const std::int64_t* edges, std::int64_t edge_count, std::int64_t joints, std::int32_t* degree) {
    std::vector<std::pair<std::int64_t, std::int64_t>> distinct;
    distinct.reserve(static_cast<std::size_t>(edge_count));
    for (std::int64_t e = 0; e < edge_count; ++e) {
        const auto [low, high] = std::minmax(edges[2 * e], edges[2 * e + 1]);
        if (low != high) distinct.emplace_back(low, high);
    }
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    std::fill(degree, degree + joints, 0);
    for (const auto& [low, high] : distinct) {
        ++degree[low];
        ++degree[high];
    }
}

}  // namespace asma::cpu
