// NumPy's frames as a ClipView, after the checks that no native entry goes without.
#pragma once

#include <pybind11/numpy.h>

#include <string>

#include "bindings/bindings.hpp"
#include "core/clip_view.hpp"

namespace asma::bindings {

using Frames = py::array_t<float>;

inline ClipView view_of(const Frames& frames, int dims) {
    if (frames.ndim() != 4)
        throw py::value_error("frames must have shape (M, T, V, C), got rank " + std::to_string(frames.ndim()));
    if (reinterpret_cast<std::uintptr_t>(frames.data()) % alignof(float) != 0)
        throw py::value_error("frames must be aligned to its element size");
    if (dims < 1 || dims > 3 || dims > frames.shape(3))
        throw py::value_error("frames must have at least " + std::to_string(dims) + " channels, got " +
                              std::to_string(frames.shape(3)));
    constexpr auto item = static_cast<std::int64_t>(sizeof(float));
    for (int axis = 0; axis < 4; ++axis) {
        if (frames.shape(axis) < 1) throw py::value_error("frames must not be empty");
        if (frames.strides(axis) % item) throw py::value_error("frames must have strides of whole elements");
    }
    ClipView clip;
    clip.data = frames.data();
    clip.bodies = frames.shape(0), clip.frames = frames.shape(1), clip.joints = frames.shape(2);
    clip.channels = frames.shape(3);
    clip.body_stride = frames.strides(0) / item, clip.frame_stride = frames.strides(1) / item;
    clip.joint_stride = frames.strides(2) / item, clip.channel_stride = frames.strides(3) / item;
    clip.dims = dims;
    return clip;
}

}  // namespace asma::bindings
