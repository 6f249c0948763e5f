#include "cpu/joint_degree.hpp"

#include "bindings/bindings.hpp"

namespace asma::bindings {

void bind_joint_degree(py::module_& module) {
    module.def(
        "joint_degree",
        [](const Array& edges, const Array& degree) {
            if (edges.rank != 2 || edges.size(1) != 2 || !edges.dense({0, 1}))
                throw py::value_error("edges must be dense, of shape (E, 2)");
            if (degree.rank != 1 || !degree.dense({0})) throw py::value_error("degree must be dense, of shape (V,)");
            const std::int64_t joints = degree.size(0), count = edges.size(0);
            const auto* entries = edges.data<const std::int64_t>("edges");
            for (std::int64_t e = 0; e < 2 * count; ++e)
                if (entries[e] < 0 || entries[e] >= joints)
                    throw py::value_error("edges must lie in [0, " + std::to_string(joints) + "), got " +
                                          std::to_string(entries[e]) + " in edge " + std::to_string(e / 2));
            cpu::joint_degree(entries, count, joints, degree.data<std::int32_t>("degree"));
        },
        py::arg("edges"), py::arg("degree"), release_gil());
}

}  // namespace asma::bindings
