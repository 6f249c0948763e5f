// From the last block's map to logits.
#pragma once

#include <cstdint>

#include "edge/model.hpp"

namespace asma::edge {

// The mean over places of a map (places, width), of its first `channels`; sums (channels) is working memory.
void average(const float* map, std::int64_t places, std::int64_t width, std::int64_t channels, float* to, double* sums);

// Adds the rows of a map (rows, channels) to sums (channels).
void add_rows(const float* map, std::int64_t rows, std::int64_t channels, double* sums);

// Features (D) of a clip to logits (classes).
void apply_head(const Model& model, const float* features, float* logits);

}  // namespace asma::edge
