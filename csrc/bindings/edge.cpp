// Edge inference: networks from model files, and sessions that run clips.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "edge/stream.hpp"

namespace asma::bindings {
namespace {

using edge::Network;
using edge::Session;
using edge::WindowStream;

std::shared_ptr<Network> make_network(const std::string& path, std::int64_t most_frames) {
    return std::make_shared<Network>(edge::load_model(path), most_frames);
}

std::shared_ptr<Session> make_session(const std::shared_ptr<Network>& network, std::int64_t most_clips,
                                      std::int64_t most_bodies, int threads) {
    return std::make_shared<Session>(network, edge::rows_of(*network, most_clips, most_bodies), threads);
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

std::unique_ptr<WindowStream> make_stream(const std::shared_ptr<Session>& session, double seconds, double least_seconds,
                                          std::int64_t hop, std::int64_t bodies, double rate, double max_rate,
                                          double gap, double smoothing, double unknown_below, double hysteresis) {
    edge::StreamSettings settings{seconds, least_seconds, hop, bodies, rate, max_rate, gap, {}};
    settings.decision = {smoothing, unknown_below, hysteresis};
    return std::make_unique<WindowStream>(session, settings);
}

// What an answer is made of: class or −1, probabilities, logits, time, frames.
py::tuple answer_of(const edge::StreamAnswer& answer) {
    const auto copied = [](const std::vector<float>& numbers) {
        return py::array_t<float>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
    };
    return py::make_tuple(answer.named, copied(answer.probabilities), copied(answer.logits), answer.time,
                          answer.frames);
}

// A frame (M, V, C), dense; a time, ids (M) or neither.
std::optional<py::tuple> push(WindowStream& stream, const Clips& frame, const std::optional<double>& time,
                              const std::optional<std::vector<std::int64_t>>& ids) {
    const edge::Model& model = stream.model();
    if (frame.ndim() != 3 || frame.shape(1) != model.joints || frame.shape(2) != model.channels)
        throw edge::Error("a frame must have shape (M, " + std::to_string(model.joints) + ", " +
                          std::to_string(model.channels) + ")");
    const std::int64_t bodies = frame.shape(0);
    if (ids && static_cast<std::int64_t>(ids->size()) != bodies)
        throw edge::Error("a frame must have an id for each of its " + std::to_string(bodies) + " bodies, got " +
                          std::to_string(ids->size()));
    const float* const from = frame.data();
    edge::StreamAnswer answer;
    {
        py::gil_scoped_release unlocked;
        if (!stream.push(from, bodies, time ? &*time : nullptr, ids ? ids->data() : nullptr, answer))
            return std::nullopt;
    }
    return answer_of(answer);
}

py::array_t<float> window_of(const WindowStream& stream) {
    std::int64_t frames = 0;
    const std::vector<float> window = stream.window(frames);
    const edge::Model& model = stream.model();
    py::array_t<float> copied({stream.settings().bodies, frames, model.joints, model.channels});
    std::copy(window.begin(), window.end(), copied.mutable_data());
    return copied;
}

}  // namespace

void bind_edge(py::module_& module) {
    py::class_<Network, std::shared_ptr<Network>>(module, "EdgeNetwork")
        .def(py::init(&make_network), py::arg("path"), py::arg("most_frames"), release_gil())
        .def_property_readonly("description", [](const Network& network) { return network.model().description; });
    py::class_<Session, std::shared_ptr<Session>>(module, "EdgeSession")
        .def(py::init(&make_session), py::arg("network"), py::arg("most_clips"), py::arg("most_bodies"),
             py::arg("threads"), release_gil())
        .def_property_readonly("missing", &Session::missing)
        .def("run", &run, py::arg("clips").noconvert())
        .def("run_recording", &run_recording, py::arg("frames").noconvert());
    py::class_<WindowStream>(module, "EdgeWindowStream")
        .def(py::init(&make_stream), py::arg("session"), py::kw_only(), py::arg("seconds"), py::arg("least_seconds"),
             py::arg("hop"), py::arg("bodies"), py::arg("rate"), py::arg("max_rate"), py::arg("gap"),
             py::arg("smoothing"), py::arg("unknown_below"), py::arg("hysteresis"))
        .def("push", &push, py::arg("frame").noconvert(), py::arg("time"), py::arg("ids"))
        .def("reset", &WindowStream::reset)
        .def_property_readonly("missing", &WindowStream::missing)
        .def_property_readonly("restarts", &WindowStream::restarts)
        .def_property_readonly("window", &window_of);
}

}  // namespace asma::bindings
