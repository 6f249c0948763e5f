// Joints that a recording lacks.
#include "core/missing.hpp"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/clip_view.hpp"

namespace asma::bindings {
namespace {

using Marks = py::array_t<bool>;

MarkView marks_of(const std::optional<Marks>& marks, const ClipView& clip) {
    if (!marks) return {};
    if (marks->ndim() != 3 || marks->shape(0) != clip.bodies || marks->shape(1) != clip.frames ||
        marks->shape(2) != clip.joints)
        throw py::value_error("marks must have the bodies, frames and joints of the clip");
    return {reinterpret_cast<const std::uint8_t*>(marks->data()), marks->strides(0), marks->strides(1),
            marks->strides(2)};
}

// frames (M, T, V, C), marks (M, T, V) → (filled frames or None where nothing changes, missing joints, dropped bodies).
py::tuple fill(const Frames& frames, const std::optional<Marks>& marks, int dims,
               const std::vector<std::int32_t>& parents) {
    const ClipView clip = view_of(frames, dims);
    const MarkView marked = marks_of(marks, clip);
    Missing missing;
    {
        py::gil_scoped_release unlocked;
        missing = find_missing(clip, marked);
    }
    if (!missing.missing_joints && !missing.dropped_bodies) return py::make_tuple(py::none(), 0, 0);
    Frames out({clip.bodies, clip.frames, clip.joints, clip.channels});
    float* to = out.mutable_data();
    {
        py::gil_scoped_release unlocked;
        fill_missing(clip, missing, parents, to);
    }
    return py::make_tuple(out, missing.missing_joints, missing.dropped_bodies);
}

}  // namespace

void bind_missing(py::module_& module) {
    module.def("fill_missing", &fill, py::arg("frames").noconvert(), py::arg("marks").noconvert().none(true),
               py::kw_only(), py::arg("dims"), py::arg("parents"));
}

}  // namespace asma::bindings
