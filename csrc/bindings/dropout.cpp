#include "cpu/dropout.hpp"

#include "bindings/bindings.hpp"
#include "core/parallel.hpp"
#include "core/philox.hpp"
#include "cpu/dispatch.hpp"

namespace asma::bindings {
namespace {

// x, out: logical (B, C, T, V), dense as (B, T, V, C). ids: (N,), dense, N dividing B.
void dropout(const Array& x, const Array& seed, const Array& ids, std::uint32_t cut, std::uint32_t block,
             const Array& out) {
    if (x.rank != 4 || !x.dense({0, 2, 3, 1})) throw py::value_error("x must be a channels-last map");
    check_sizes(out, {x.size(0), x.size(1), x.size(2), x.size(3)}, "out");
    if (!out.dense({0, 2, 3, 1})) throw py::value_error("out must be a channels-last map");
    if (ids.rank != 1 || !ids.dense({0}) || (ids.size(0) ? x.size(0) % ids.size(0) : x.size(0)) != 0)
        throw py::value_error("ids must be dense, of a size that divides the rows of x");
    check_sizes(seed, {}, "seed");
    with_real(x, "x", [&](auto zero) {
        using Real = decltype(zero);
        cpu::DropoutParams<Real> p{};
        p.x = x.data<const Real>("x");
        p.out = out.data<Real>("out");
        p.ids = ids.data<const std::int64_t>("ids");
        p.seed = static_cast<std::uint64_t>(*seed.data<const std::int64_t>("seed"));
        p.purpose = static_cast<std::uint32_t>(Purpose::dropout) + block;
        p.cut = cut;
        p.scale = static_cast<Real>(65536.0 / (65536.0 - cut));
        if (x.count() == 0) return;
        p.size = x.count() / ids.size(0);
        // The counter has 32 bits for each eight elements.
        if (p.size >> 35)
            throw py::value_error("a sample must have fewer than 2^35 elements, got " + std::to_string(p.size));
        p.pieces = (p.size + cpu::dropout_piece - 1) / cpu::dropout_piece;
        parallel_for(ids.size(0) * p.pieces, 4,
                     [&](std::int64_t begin, std::int64_t end) { cpu::kernels<Real>().dropout(p, begin, end); });
    });
}

}  // namespace

void bind_dropout(py::module_& module) {
    module.def("dropout", &dropout, py::arg("x"), py::arg("seed"), py::arg("ids"), py::arg("cut"), py::arg("block"),
               py::arg("out"), release_gil());
}

}  // namespace asma::bindings
