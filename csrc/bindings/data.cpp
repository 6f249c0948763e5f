// Preprocessing and raw-file readers. Arrays come and go as NumPy's: nothing here serves torch.
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/clip_view.hpp"
#include "core/ntu_skeleton.hpp"
#include "core/preprocess.hpp"
#include "core/text_cursor.hpp"

namespace asma::bindings {
namespace {

using Joints = std::vector<std::int32_t>;

template <class Rule, std::size_t count>
Rule choice(const char* what, const std::string& text, const RuleName<Rule> (&known)[count]) {
    std::string names;
    for (const auto& one : known) {
        if (text == one.name) return one.rule;
        names.append(names.empty() ? "" : ", ").append(one.name);
    }
    throw py::value_error(std::string(what).append(" must be one of ").append(names).append("; got '").append(text) +
                          "'");
}

const Joints& checked(const Joints& joints, std::int64_t limit, bool needed, const char* what) {
    if (needed && joints.empty()) throw py::value_error(std::string(what) + " must name at least one joint");
    for (const std::int32_t joint : joints)
        if (joint < 0 || joint >= limit)
            throw py::value_error(std::string(what) + " must name joints in [0, " + std::to_string(limit) + "), got " +
                                  std::to_string(joint));
    return joints;
}

// frames (M, T, V, C) → (M, out_frames, V, C); out_frames 0 keeps the valid length.
Frames preprocess_clip(const Frames& frames, int dims, const std::string& length, const std::string& centre,
                       const std::string& scale, const std::string& rotate, const Joints& centre_joints,
                       const Joints& left_shoulder, const Joints& right_shoulder, const Joints& torso_top,
                       const Joints& torso_bottom, int up_axis, std::array<std::int64_t, 2> image,
                       std::int64_t out_frames) {
    const ClipView clip = view_of(frames, dims);
    Preprocess recipe;
    recipe.length = choice("length", length, length_rules);
    recipe.centre = choice("centre", centre, centre_rules);
    recipe.scale = choice("scale", scale, scale_rules);
    recipe.rotate = choice("rotate", rotate, rotate_rules);
    const bool turns = recipe.rotate != RotateRule::none, scales = recipe.scale == ScaleRule::torso;
    const bool from_joint = recipe.centre == CentreRule::per_body || recipe.centre == CentreRule::first;
    recipe.centre_joints = checked(centre_joints, clip.joints, from_joint, "centre");
    recipe.left_shoulder = checked(left_shoulder, clip.joints, turns, "left shoulder");
    recipe.right_shoulder = checked(right_shoulder, clip.joints, turns, "right shoulder");
    recipe.torso_top = checked(torso_top, clip.joints, scales, "torso top");
    recipe.torso_bottom = checked(torso_bottom, clip.joints, scales, "torso bottom");
    recipe.up_axis = up_axis;
    if (recipe.centre == CentreRule::image || recipe.scale == ScaleRule::image) {
        if (dims != 2) throw py::value_error("the image's rules need 2 coordinates, got " + std::to_string(dims));
        if (image[0] < 1 || image[1] < 1) throw py::value_error("the image's width and height must be positive");
    }
    recipe.image = {static_cast<double>(image[0]), static_cast<double>(image[1])};
    if (turns && dims != 3) throw py::value_error("rotation needs 3 coordinates, got " + std::to_string(dims));
    if (up_axis < 0 || up_axis > 2)
        throw py::value_error("the up axis must be 0, 1 or 2, got " + std::to_string(up_axis));
    if (out_frames < 0) throw py::value_error("frames must be positive, got " + std::to_string(out_frames));

    std::vector<std::int64_t> valid;
    {
        py::gil_scoped_release unlocked;
        valid = valid_frames(clip, recipe.length);
    }
    if (valid.empty())
        throw py::value_error("the clip must have a valid frame (rule '" + length + "'), got none in " +
                              std::to_string(clip.frames) + " frames");
    const std::int64_t kept = out_frames ? out_frames : static_cast<std::int64_t>(valid.size());
    Frames out({clip.bodies, kept, clip.joints, clip.channels});
    float* to = out.mutable_data();
    {
        py::gil_scoped_release unlocked;
        preprocess(clip, recipe, valid, kept, to);
    }
    return out;
}

// A reader's error becomes asma_fast.data.FormatError, which also names the file.
[[noreturn]] void raise_format_error(const std::string& file, const TextFormatError& error) {
    const py::object type = py::module_::import("asma_fast.data.errors").attr("FormatError");
    const py::object instance = type(file, error.expected, error.found, error.line);
    PyErr_SetObject(type.ptr(), instance.ptr());
    throw py::error_already_set();
}

template <class T> py::array_t<T> array_of(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
    py::array_t<T> out(std::move(shape));
    if (!values.empty()) std::memcpy(out.mutable_data(), values.data(), values.size() * sizeof(T));
    return out;
}

// text → counts (T) int32, ids (B) uint64, coordinates (B, V, C) float32, states (B, V) uint8.
py::tuple read_ntu(const py::bytes& text, const std::string& file) {
    const auto content = static_cast<std::string_view>(text);
    NtuRecording read;
    try {
        py::gil_scoped_release unlocked;
        read = read_ntu_skeleton(content);
    } catch (const TextFormatError& error) {
        raise_format_error(file, error);
    }
    const auto frames = static_cast<py::ssize_t>(read.counts.size()),
               bodies = static_cast<py::ssize_t>(read.ids.size());
    return py::make_tuple(array_of(read.counts, {frames}), array_of(read.ids, {bodies}),
                          array_of(read.coordinates, {bodies, NtuRecording::joints, NtuRecording::channels}),
                          array_of(read.states, {bodies, NtuRecording::joints}));
}

}  // namespace

void bind_data(py::module_& module) {
    module.def("preprocess_clip", &preprocess_clip, py::arg("frames").noconvert(), py::kw_only(), py::arg("dims"),
               py::arg("length"), py::arg("centre"), py::arg("scale"), py::arg("rotate"), py::arg("centre_joints"),
               py::arg("left_shoulder"), py::arg("right_shoulder"), py::arg("torso_top"), py::arg("torso_bottom"),
               py::arg("up_axis"), py::arg("image"), py::arg("out_frames"));
    module.def("read_ntu_skeleton", &read_ntu, py::arg("text"), py::arg("file"));
}

}  // namespace asma::bindings
