#include "cpu/block.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

using Maybe = std::optional<Array>;

constexpr std::int64_t most_parts = 64;  // runs of pieces with sums of their own, in a gradient

void check_map(const Array& map, const Array& like, const char* what) {
    if (map.rank != 4 || !map.dense({0, 2, 3, 1}))
        throw py::value_error(std::string(what) + " must be a channels-last map");
    check_sizes(map, {like.size(0), like.size(1), like.size(2), like.size(3)}, what);
}

template <class Real> Real* map_data(const Maybe& map, const Array& like, const char* what) {
    if (!map) return nullptr;
    check_map(*map, like, what);
    return map->data<Real>(what);
}

// Values by channel, times a factor, in a table that repeats its start.
template <class Real> class Table {
public:
    Table(const Maybe& values, std::int64_t channels, const char* what, double factor = 1)
        : table_(values ? cpu::channel_table(channels) : 0), given_(values) {
        if (!values) return;
        check_sizes(*values, {channels}, what);
        const Real* from = values->data<const Real>(what);
        for (std::int64_t i = 0; i < cpu::channel_table(channels); ++i)
            table_.data()[i] = static_cast<Real>(factor * static_cast<double>(from[i % channels * values->stride(0)]));
    }
    // A value of each channel that its elements lie near: those of the map's first pixel, where finite.
    Table(const Real* map, std::int64_t channels) : table_(map ? cpu::channel_table(channels) : 0), given_(map) {
        if (!map) return;
        for (std::int64_t i = 0; i < cpu::channel_table(channels); ++i) {
            const Real value = map[i % channels];
            table_.data()[i] = value - value == 0 ? value : Real{0};
        }
    }
    const Real* data() { return given_ ? table_.data() : nullptr; }

private:
    Scratch<Real> table_;
    bool given_;
};

// Sizes, and what dropout needs; without dropout the map is one sample.
template <class Params> void set_dropout(Params& p, const Array& map, const Maybe& seed, const Maybe& ids,
                                         std::uint32_t cut, std::uint32_t block) {
    std::int64_t samples = 1;
    p.cut = cut;
    if (cut) {
        if (cut > 65535 || !seed || !ids) throw py::value_error("dropout needs seed, ids and a cut below 65536");
        check_sizes(*seed, {}, "seed");
        if (ids->rank != 1 || !ids->dense({0}) || ids->size(0) < 1 || map.size(0) % ids->size(0) != 0)
            throw py::value_error("ids must be dense, of a size that divides the rows of the map");
        p.ids = ids->data<const std::int64_t>("ids");
        p.seed = static_cast<std::uint64_t>(*seed->data<const std::int64_t>("seed"));
        p.purpose = static_cast<std::uint32_t>(Purpose::dropout) + block;
        samples = ids->size(0);
    }
    p.channels = map.size(1);
    p.size = map.count() / samples;
    if (cut && p.size >> 35)  // the counter has 32 bits for each eight elements
        throw py::value_error("a sample must have fewer than 2^35 elements, got " + std::to_string(p.size));
    p.pieces = (p.size + cpu::dropout_piece - 1) / cpu::dropout_piece;
}

double dropout_scale(std::uint32_t cut) {
    return 65536.0 / (65536.0 - std::min<std::uint32_t>(cut, 65535));
}

// x, residual, out: (B, C, T, V), dense as (B, T, V, C). Scales and shifts: (C,), by strides. ids: (N,), dense.
void block_output(const Array& x, const Array& scale, const Array& shift, const Maybe& residual,
                  const Maybe& residual_scale, const Maybe& residual_shift, const Maybe& seed, const Maybe& ids,
                  std::uint32_t cut, std::uint32_t block, const Array& out) {
    check_map(x, x, "x");
    check_map(out, x, "out");
    if (residual_scale.has_value() != residual_shift.has_value() || (residual_scale && !residual))
        throw py::value_error("residual_scale and residual_shift go together, and with a residual");
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        if (x.count() == 0) return;
        cpu::BlockOutputParams<Real> p{};
        set_dropout(p, x, seed, ids, cut, block);
        Table<Real> scales(scale, p.channels, "scale", dropout_scale(cut));
        Table<Real> shifts(shift, p.channels, "shift", dropout_scale(cut));
        Table<Real> residual_scales(residual_scale, p.channels, "residual_scale");
        Table<Real> residual_shifts(residual_shift, p.channels, "residual_shift");
        p.x = x.data<const Real>("x"), p.out = out.data<Real>("out");
        p.residual = map_data<const Real>(residual, x, "residual");
        p.scale = scales.data(), p.shift = shifts.data();
        p.residual_scale = residual_scales.data(), p.residual_shift = residual_shifts.data();
        parallel_for(x.count() / p.size * p.pieces, 4,
                     [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().block_output(p, begin, end); });
    });
}

// One gradient by channel: the parts' sums in order; of a product with the map, about the pivot.
template <class Real> void merge(const Maybe& grad, const double* partial, std::int64_t parts, std::int64_t channels,
                                 const Real* pivot, double factor, const char* what) {
    if (!grad) return;
    check_sizes(*grad, {channels}, what);
    Real* to = grad->data<Real>(what);
    const std::int64_t entries = cpu::channel_table(channels);
    for (std::int64_t c = 0; c < channels; ++c) {
        double sum = 0, product = 0;
        for (std::int64_t part = 0; part < parts; ++part)
            for (std::int64_t i = c; i < entries; i += channels) {
                sum += partial[part * 4 * entries + i];
                if (pivot) product += partial[(part * 4 + 1) * entries + i];
            }
        if (pivot) sum = product + static_cast<double>(pivot[c]) * sum;
        to[c * grad->stride(0)] = static_cast<Real>(factor * sum);
    }
}

// g, out, x, residual, x_grad, residual_grad: as the maps of block_output. A gradient that is not wanted is None.
void block_output_backward(const Array& g, const Array& out, const Maybe& x, const Array& scale, const Maybe& residual,
                           const Maybe& residual_scale, const Maybe& seed, const Maybe& ids, std::uint32_t cut,
                           std::uint32_t block, const Maybe& x_grad, const Maybe& scale_grad, const Maybe& shift_grad,
                           const Maybe& residual_grad, const Maybe& residual_scale_grad,
                           const Maybe& residual_shift_grad) {
    check_map(out, out, "out");
    check_map(g, out, "g");
    if ((scale_grad && !x) || (residual_scale_grad && !residual))
        throw py::value_error("the gradient of a scale needs the map that it scales");
    with_real(out, "out", [&](auto zero) {
        using Real = decltype(zero);
        cpu::BlockOutputBackwardParams<Real> p{};
        p.channels = out.size(1);
        if (out.count() != 0) set_dropout(p, out, seed, ids, cut, block);
        p.all_pieces = p.size ? out.count() / p.size * p.pieces : 0;
        p.part_pieces = std::max<std::int64_t>(4, (p.all_pieces + most_parts - 1) / most_parts);
        const std::int64_t parts = (p.all_pieces + p.part_pieces - 1) / p.part_pieces;
        p.g = g.data<const Real>("g"), p.out = out.data<const Real>("out");
        p.x_grad = map_data<Real>(x_grad, out, "x_grad");
        p.residual_grad = map_data<Real>(residual_grad, out, "residual_grad");
        p.sums = scale_grad || shift_grad, p.residual_sums = residual_scale_grad || residual_shift_grad;
        if (scale_grad) p.x = map_data<const Real>(x, out, "x");
        if (residual_scale_grad) p.residual = map_data<const Real>(residual, out, "residual");
        const bool some = out.count() != 0;
        Table<Real> scales(some ? Maybe(scale) : Maybe(), p.channels, "scale", dropout_scale(cut));
        Table<Real> residual_scales(some ? residual_scale : Maybe(), p.channels, "residual_scale");
        Table<Real> pivot(some ? p.x : nullptr, p.channels), residual_pivot(some ? p.residual : nullptr, p.channels);
        p.scale = scales.data(), p.residual_scale = residual_scales.data();
        p.pivot = pivot.data(), p.residual_pivot = residual_pivot.data();
        const bool summing = p.sums || p.residual_sums;
        const std::int64_t entries = cpu::channel_table(p.channels);
        Scratch<double> partial(checked_product({parts, 4, entries}));
        p.partial = partial.data();
        parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
            cpu::kernels<Real>().block_output_backward(p, begin, end);
        });
        if (!summing) return;
        const double kept = dropout_scale(cut);
        const double *first = partial.data(), *second = partial.data() + 2 * entries;
        merge<Real>(shift_grad, first, parts, p.channels, nullptr, kept, "shift_grad");
        merge<Real>(scale_grad, first, parts, p.channels, p.pivot, kept, "scale_grad");
        merge<Real>(residual_shift_grad, second, parts, p.channels, nullptr, 1, "residual_shift_grad");
        merge<Real>(residual_scale_grad, second, parts, p.channels, p.residual_pivot, 1, "residual_scale_grad");
    });
}

}  // namespace

void bind_block(py::module_& module) {
    module.def("block_output", &block_output, py::arg("x"), py::arg("scale"), py::arg("shift"), py::arg("residual"),
               py::arg("residual_scale"), py::arg("residual_shift"), py::arg("seed"), py::arg("ids"), py::arg("cut"),
               py::arg("block"), py::arg("out"), release_gil());
    module.def("block_output_backward", &block_output_backward, py::arg("g"), py::arg("out"), py::arg("x"),
               py::arg("scale"), py::arg("residual"), py::arg("residual_scale"), py::arg("seed"), py::arg("ids"),
               py::arg("cut"), py::arg("block"), py::arg("x_grad"), py::arg("scale_grad"), py::arg("shift_grad"),
               py::arg("residual_grad"), py::arg("residual_scale_grad"), py::arg("residual_shift_grad"), release_gil());
}

}  // namespace asma::bindings
