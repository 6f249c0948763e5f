#include "edge/pooling.hpp"

#include <algorithm>
#include <cmath>

namespace asma::edge {

void average(const float* map, std::int64_t places, std::int64_t width, std::int64_t channels, float* to,
             double* sums) {
    constexpr std::int64_t stretch = 64;  // places whose sum float32 takes
    std::fill(sums, sums + channels, 0.0);
    for (std::int64_t begin = 0; begin < places; begin += stretch) {
        std::fill(to, to + channels, 0.0F);
        for (std::int64_t i = begin; i < std::min(places, begin + stretch); ++i)
            for (std::int64_t c = 0; c < channels; ++c) to[c] += map[i * width + c];
        for (std::int64_t c = 0; c < channels; ++c) sums[c] += static_cast<double>(to[c]);
    }
    for (std::int64_t c = 0; c < channels; ++c) to[c] = static_cast<float>(sums[c] / static_cast<double>(places));
}

void add_rows(const float* map, std::int64_t rows, std::int64_t channels, double* sums) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < channels; ++c) sums[c] += static_cast<double>(map[r * channels + c]);
}

void apply_head(const Model& model, const float* features, float* logits) {
    const std::int64_t classes = static_cast<std::int64_t>(model.classes.size());
    const std::int64_t width = static_cast<std::int64_t>(model.head_weight.size()) / classes;
    for (std::int64_t k = 0; k < classes; ++k) {
        const float* const weight = model.head_weight.data() + k * width;
        float sum = model.head_bias[static_cast<std::size_t>(k)];
        for (std::int64_t c = 0; c < width; ++c) sum += weight[c] * features[c];
        logits[k] = sum;
    }
}

Softmax::Softmax(const float* logits, std::int64_t classes) : largest_(*std::max_element(logits, logits + classes)) {
    for (std::int64_t k = 0; k < classes; ++k) sum_ += std::exp(static_cast<double>(logits[k] - largest_));
}

double Softmax::operator()(float logit) const {
    return std::exp(static_cast<double>(logit - largest_)) / sum_;
}

}  // namespace asma::edge
