// From the four optional arrays of a view to the maps the kernels read, with every index checked.
#pragma once

#include <optional>

#include "bindings/bindings.hpp"
#include "core/view_maps.hpp"

namespace asma::bindings {

// The kernels step through the inner axes by one.
inline void check_dense(const Array& array, const char* what) {
    const bool dense = array.rank == 2 ? array.dense({1}) : array.dense({1, 2});
    if (!dense) throw py::value_error(std::string(what) + " must be dense in its inner axes");
}

inline std::int64_t row_stride(const Array& map) {
    return map.size(0) == 1 ? 0 : map.stride(0);
}

template <class Real>
ViewMaps<Real> view_maps(const std::optional<Array>& frames, const std::optional<Array>& joints,
                              const std::optional<Array>& transform, std::int64_t x_frames, std::int64_t x_joints) {
    ViewMaps<Real> maps{};
    if (frames) {
        check_dense(*frames, "view.frames");
        check_indices(*frames, x_frames, "view.frames");
        maps.frames = frames->data<const std::int32_t>("view.frames");
        maps.frames_stride = row_stride(*frames);
    }
    if (joints) {
        check_dense(*joints, "view.joints");
        check_indices(*joints, x_joints, "view.joints");
        maps.joints = joints->data<const std::int32_t>("view.joints");
        maps.joints_stride = row_stride(*joints);
    }
    if (transform) {
        check_dense(*transform, "view.transform");
        maps.transform = transform->data<const Real>("view.transform");
        maps.transform_stride = row_stride(*transform);
        maps.dims = transform->size(1);
    }
    return maps;
}

}  // namespace asma::bindings
