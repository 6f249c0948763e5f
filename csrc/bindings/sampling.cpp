#include "cpu/sampling.hpp"

#include <cmath>
#include <vector>

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"

namespace asma::bindings {
namespace {

constexpr std::int64_t clips_together = 16;

void check_weights(const double* weights, std::int64_t joints, std::int64_t drop) {
    std::int64_t positive = 0;
    for (std::int64_t v = 0; v < joints; ++v) {
        if (!(weights[v] >= 0) || std::isinf(weights[v]))
            throw py::value_error("weights must be finite and not negative, got " + std::to_string(weights[v]));
        positive += weights[v] > 0;
    }
    if (positive == 0) throw py::value_error("weights must not all be zero, got a row of zeros");
    if (positive < drop)
        throw py::value_error("drop must be at most the number of positive weights, " + std::to_string(positive) +
                              ", got " + std::to_string(drop));
}

// ids: (N,), kept: (N, count), seed: (); all dense.
void check_draw(const Array& seed, const Array& ids, const Array& kept, std::int64_t rows, std::int64_t count) {
    check_sizes(seed, {}, "seed");
    check_sizes(ids, {rows}, "ids");
    check_sizes(kept, {rows, count}, "kept");
    if (!ids.dense({0}) || !kept.dense({0, 1})) throw py::value_error("ids and kept must be dense");
}

// weights: (V,) or (N, V), dense float64. ids: (N,), dense. kept: (N, V − drop), dense.
void sample_joints(const Array& weights, std::int64_t drop, const Array& seed, const Array& ids, const Array& kept) {
    if ((weights.rank != 1 && weights.rank != 2) || !(weights.rank == 1 ? weights.dense({0}) : weights.dense({0, 1})))
        throw py::value_error("weights must be dense, of shape (V,) or (N, V)");
    const auto* rows = weights.data<const double>("weights");
    const std::int64_t joints = weights.size(weights.rank - 1);
    if (drop < 0 || drop > joints) throw py::value_error("drop must be in [0, " + std::to_string(joints) + "]");
    check_draw(seed, ids, kept, weights.rank == 2 ? weights.size(0) : ids.size(0), joints - drop);
    const std::int64_t step = weights.rank == 2 ? joints : 0;
    for (std::int64_t n = 0; n < (step ? weights.size(0) : 1); ++n) check_weights(rows + n * step, joints, drop);
    const auto key = static_cast<std::uint64_t>(*seed.data<const std::int64_t>("seed"));
    const auto* clip_ids = ids.data<const std::int64_t>("ids");
    auto* out = kept.data<std::int32_t>("kept");
    std::vector<std::int64_t> shared(static_cast<std::size_t>(step ? 0 : joints));
    if (!step) cpu::integer_weights(rows, joints, shared.data());
    parallel_for(ids.size(0), clips_together, [&](std::int64_t begin, std::int64_t end) {
        cpu::SamplingScratch scratch(joints);
        std::vector<std::int64_t> own(static_cast<std::size_t>(step ? joints : 0));
        for (std::int64_t n = begin; n < end; ++n) {
            if (step) cpu::integer_weights(rows + n * step, joints, own.data());
            cpu::sample_joints(step ? own.data() : shared.data(), joints, drop, key,
                               static_cast<std::uint64_t>(clip_ids[n]), scratch, out + n * (joints - drop));
        }
    });
}

// scores: (N, T), dense float32. ids: (N,), dense. kept: (N, T − drop − random_drop), dense.
void sample_frames(const Array& scores, std::int64_t drop, bool high, std::int64_t random_drop, const Array& seed,
                   const Array& ids, const Array& kept) {
    if (scores.rank != 2 || !scores.dense({0, 1})) throw py::value_error("scores must be dense, of shape (N, T)");
    const auto* rows = scores.data<const float>("scores");
    const std::int64_t frames = scores.size(1);
    if (drop < 0 || random_drop < 0 || drop > frames - random_drop)
        throw py::value_error("drop and random_drop must together be at most the " + std::to_string(frames) +
                              " frames");
    check_draw(seed, ids, kept, scores.size(0), frames - drop - random_drop);
    bool wrong = false;
    for (std::int64_t i = 0; i < scores.count(); ++i) wrong |= rows[i] != rows[i];
    for (std::int64_t i = 0; wrong; ++i)
        if (std::isnan(rows[i]))
            throw py::value_error("scores must not be NaN, got NaN at (" + std::to_string(i / frames) + ", " +
                                  std::to_string(i % frames) + ")");
    const auto key = static_cast<std::uint64_t>(*seed.data<const std::int64_t>("seed"));
    const auto* clip_ids = ids.data<const std::int64_t>("ids");
    auto* out = kept.data<std::int32_t>("kept");
    parallel_for(scores.size(0), clips_together, [&](std::int64_t begin, std::int64_t end) {
        cpu::SamplingScratch scratch(frames);
        for (std::int64_t n = begin; n < end; ++n)
            cpu::sample_frames(rows + n * frames, frames, drop, high, random_drop, key,
                               static_cast<std::uint64_t>(clip_ids[n]), scratch, out + n * kept.size(1));
    });
}

}  // namespace

void bind_sampling(py::module_& module) {
    module.def("sample_joints", &sample_joints, py::arg("weights"), py::arg("drop"), py::arg("seed"), py::arg("ids"),
               py::arg("kept"), release_gil());
    module.def("sample_frames", &sample_frames, py::arg("scores"), py::arg("drop"), py::arg("high"),
               py::arg("random_drop"), py::arg("seed"), py::arg("ids"), py::arg("kept"), release_gil());
}

}  // namespace asma::bindings
