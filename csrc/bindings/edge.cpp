// Edge inference: networks from model files, and sessions that run clips.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "edge/session.hpp"

namespace asma::bindings {
namespace {

using edge::Network;
using edge::Session;

std::shared_ptr<Network> make_network(const std::string& path, std::int64_t most_frames) {
    return std::make_shared<Network>(edge::load_model(path), most_frames);
}

std::unique_ptr<Session> make_session(const std::shared_ptr<Network>& network, std::int64_t most_clips,
                                      std::int64_t most_bodies, int threads) {
    return std::make_unique<Session>(network, edge::rows_of(*network, most_clips, most_bodies), threads);
}

using Clips = py::array_t<float, py::array::c_style>;

// clips (N, M, T, V, C), dense → logits (N, classes).
py::array_t<float> run(Session& session, const Clips& clips) {
    const edge::Model& model = session.network().model();
    if (clips.ndim() != 5 || clips.shape(3) != model.joints || clips.shape(4) != model.channels)
        throw edge::Error("clips must have shape (N, M, T, " + std::to_string(model.joints) + ", " +
                          std::to_string(model.channels) + ")");
    py::array_t<float> logits({clips.shape(0), static_cast<py::ssize_t>(session.network().classes())});
    const float* const from = clips.data();
    float* const to = logits.mutable_data();
    const std::int64_t count = clips.shape(0), bodies = clips.shape(1), frames = clips.shape(2);
    py::gil_scoped_release unlocked;
    session.run(from, count, bodies, frames, to);
    return logits;
}

// One recording (M, T, V, C) in any memory order → logits (classes).
py::array_t<float> run_recording(Session& session, const py::array_t<float>& frames) {
    if (frames.ndim() != 4) throw edge::Error("a recording must have shape (M, T, V, C)");
    constexpr auto item = static_cast<std::int64_t>(sizeof(float));
    ClipView clip;
    clip.data = frames.data();
    clip.bodies = frames.shape(0), clip.frames = frames.shape(1);
    clip.joints = frames.shape(2), clip.channels = frames.shape(3);
    for (int axis = 0; axis < 4; ++axis)
        if (frames.strides(axis) % item) throw edge::Error("a recording must have strides of whole elements");
    clip.body_stride = frames.strides(0) / item, clip.frame_stride = frames.strides(1) / item;
    clip.joint_stride = frames.strides(2) / item, clip.channel_stride = frames.strides(3) / item;
    py::array_t<float> logits(static_cast<py::ssize_t>(session.network().classes()));
    float* const to = logits.mutable_data();
    py::gil_scoped_release unlocked;
    session.run_recording(clip, to);
    return logits;
}

}  // namespace

void bind_edge(py::module_& module) {
    py::class_<Network, std::shared_ptr<Network>>(module, "EdgeNetwork")
        .def(py::init(&make_network), py::arg("path"), py::arg("most_frames"), release_gil())
        .def_property_readonly("description", [](const Network& network) { return network.model().description; });
    py::class_<Session>(module, "EdgeSession")
        .def(py::init(&make_session), py::arg("network"), py::arg("most_clips"), py::arg("most_bodies"),
             py::arg("threads"), release_gil())
        .def_property_readonly("missing", &Session::missing)
        .def("run", &run, py::arg("clips").noconvert())
        .def("run_recording", &run_recording, py::arg("frames").noconvert());
}

}  // namespace asma::bindings
