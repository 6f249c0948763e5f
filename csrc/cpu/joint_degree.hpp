#pragma once

#include <cstdint>

namespace asma::cpu {

// degree[v] = number of distinct joints that share an edge with v; self-loops are not counted. Integer work without
// vectors, so compiled once. Every entry of `edges` (E, 2), dense, must lie in [0, joints).
void joint_degree(const std::int64_t* edges, std::int64_t edge_count, std::int64_t joints, std::int32_t* degree);

}  // namespace asma::cpu
