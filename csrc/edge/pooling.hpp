// From the last block's map to probabilities.
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

// What logits (classes) make of one of them: its probability.
class Softmax {
public:
    Softmax(const float* logits, std::int64_t classes);
    double operator()(float logit) const;

private:
    float largest_;
    double sum_ = 0;
};

}  // namespace asma::edge
