// Edge inference: networks from model files, and sessions that run clips.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.hpp"
#include "edge/continual_stream.hpp"
#include "edge/window_stream.hpp"

namespace asma::bindings {
namespace {

using edge::ContinualStream;
using edge::Network;
using edge::Session;
using edge::Stream;
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

// Settings that streams of any mode take.
template <class Settings> Settings settings_of(std::int64_t bodies, double rate, double gap, double smoothing,
                                               double unknown_below, double hysteresis) {
    Settings settings;
    settings.bodies = bodies, settings.rate = rate, settings.gap = gap;
    settings.decision = {smoothing, unknown_below, hysteresis};
    return settings;
}

std::unique_ptr<WindowStream> make_window(const std::shared_ptr<Session>& session, std::int64_t bodies, double rate,
                                          double gap, double smoothing, double unknown_below, double hysteresis,
                                          double seconds, double least_seconds, std::int64_t hop, double max_rate) {
    auto settings = settings_of<edge::WindowSettings>(bodies, rate, gap, smoothing, unknown_below, hysteresis);
    settings.seconds = seconds, settings.least_seconds = least_seconds, settings.hop = hop;
    settings.max_rate = max_rate;
    return std::make_unique<WindowStream>(session, settings);
}

std::unique_ptr<ContinualStream> make_continual(const std::shared_ptr<Session>& session, std::int64_t bodies,
                                                double rate, double gap, double smoothing, double unknown_below,
                                                double hysteresis, std::int64_t pool, bool spread,
                                                std::int64_t streams) {
    auto settings = settings_of<edge::ContinualSettings>(bodies, rate, gap, smoothing, unknown_below, hysteresis);
    settings.pool = pool, settings.spread = spread, settings.streams = streams;
    return std::make_unique<ContinualStream>(*session, settings);
}

// What an answer is made of: class or −1, probabilities, logits, time, frames.
py::tuple answer_of(const edge::StreamAnswer& answer) {
    const auto copied = [](const std::vector<float>& numbers) {
        return py::array_t<float>(static_cast<py::ssize_t>(numbers.size()), numbers.data());
    };
    return py::make_tuple(answer.named, copied(answer.probabilities), copied(answer.logits), answer.time,
                          answer.frames);
}

// A frame (streams, M, V, C), dense; a time, ids (streams, M) or neither. An answer a stream.
std::optional<std::vector<py::tuple>> push(Stream& stream, const Clips& frame, const std::optional<double>& time,
                                           const std::optional<std::vector<std::int64_t>>& ids) {
    const edge::Model& model = stream.model();
    if (frame.ndim() != 4 || frame.shape(0) != stream.streams() || frame.shape(2) != model.joints ||
        frame.shape(3) != model.channels)
        throw edge::Error("a frame must have shape (" +
                          (stream.streams() > 1 ? std::to_string(stream.streams()) + ", " : std::string()) + "M, " +
                          std::to_string(model.joints) + ", " + std::to_string(model.channels) + ")");
    const std::int64_t bodies = frame.shape(1);
    if (ids && static_cast<std::int64_t>(ids->size()) != stream.streams() * bodies)
        throw edge::Error("a frame must have an id for each of its " + std::to_string(stream.streams() * bodies) +
                          " bodies, got " + std::to_string(ids->size()));
    const float* const from = frame.data();
    std::vector<edge::StreamAnswer> answers;
    {
        py::gil_scoped_release unlocked;
        stream.push(from, bodies, time ? &*time : nullptr, ids ? ids->data() : nullptr,
                    [&](const edge::StreamAnswer* told) { answers.assign(told, told + stream.streams()); });
    }
    if (answers.empty()) return std::nullopt;
    std::vector<py::tuple> told;
    told.reserve(answers.size());
    for (const edge::StreamAnswer& answer : answers) told.push_back(answer_of(answer));
    return told;
}

py::array_t<float> window_of(const WindowStream& stream) {
    std::int64_t frames = 0;
    const std::vector<float> window = stream.window(frames);
    const edge::Model& model = stream.model();
    py::array_t<float> copied({stream.slots(), frames, model.joints, model.channels});
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
    py::class_<Stream>(module, "EdgeStream")
        .def("push", &push, py::arg("frame").noconvert(), py::arg("time"), py::arg("ids"))
        .def("reset", &Stream::reset)
        .def_property_readonly("missing", &Stream::missing)
        .def_property_readonly("restarts", &Stream::restarts);
    py::class_<WindowStream, Stream>(module, "EdgeWindowStream")
        .def(py::init(&make_window), py::arg("session"), py::kw_only(), py::arg("bodies"), py::arg("rate"),
             py::arg("gap"), py::arg("smoothing"), py::arg("unknown_below"), py::arg("hysteresis"), py::arg("seconds"),
             py::arg("least_seconds"), py::arg("hop"), py::arg("max_rate"))
        .def_property_readonly("window", &window_of);
    py::class_<ContinualStream, Stream>(module, "EdgeContinualStream")
        .def(py::init(&make_continual), py::arg("session"), py::kw_only(), py::arg("bodies"), py::arg("rate"),
             py::arg("gap"), py::arg("smoothing"), py::arg("unknown_below"), py::arg("hysteresis"), py::arg("pool"),
             py::arg("spread"), py::arg("n_streams"))
        .def_property_readonly("period", &ContinualStream::period)
        .def_property_readonly("delay", &ContinualStream::delay)
        .def_property_readonly("pool", &ContinualStream::pool);
}

}  // namespace asma::bindings
