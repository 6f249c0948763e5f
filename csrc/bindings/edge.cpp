// Edge inference: networks from model files, and sessions that run clips.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.hpp"
#include "bindings/clip_view.hpp"
#include "edge/network.hpp"

namespace asma::bindings {
namespace {

using edge::Network;
using edge::Session;

std::shared_ptr<Network> make_network(const std::string& path, std::int64_t most_frames) {
    if (most_frames < 1 || most_frames > 1'000'000)
        throw edge::Error("max_frames must be from 1 to 1000000, got " + std::to_string(most_frames));
    return std::make_shared<Network>(edge::load_model(path), most_frames);
}

std::unique_ptr<Session> make_session(const std::shared_ptr<Network>& network, std::int64_t most_rows, int threads) {
    if (most_rows < 1 || most_rows > 1'000'000)
        throw edge::Error("a session must take from 1 to 1000000 bodies at once, got " + std::to_string(most_rows));
    if (threads < 1 || threads > 256) throw edge::Error("threads must be from 1 to 256, got " + std::to_string(threads));
    return std::make_unique<Session>(network, most_rows, threads);
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

// One recording (M, T, V, C) in any memory order → the clip (M', T', V, C) that the network reads.
Frames prepare(const Network& network, const Frames& frames) {
    const edge::Model& model = network.model();
    if (!model.recipe)
        throw edge::Error("the model tells of no preprocessing: it reads clips that are preprocessed already");
    const edge::Recipe& recipe = *model.recipe;
    const ClipView clip = view_of(frames, recipe.dims);
    if (clip.joints != model.joints || clip.channels != model.channels)
        throw edge::Error("a recording must have shape (M, T, " + std::to_string(model.joints) + ", " +
                          std::to_string(model.channels) + ")");
    const std::vector<std::int64_t> valid = valid_frames(clip, recipe.rules.length);
    if (valid.empty()) throw edge::Error("the recording must have a frame with a body in it");
    const std::int64_t kept = recipe.frames ? recipe.frames : static_cast<std::int64_t>(valid.size());
    const std::int64_t wanted = recipe.bodies ? recipe.bodies : clip.bodies;
    Frames whole({std::max(clip.bodies, wanted), kept, clip.joints, clip.channels});
    const std::int64_t size = kept * clip.joints * clip.channels;
    float* const to = whole.mutable_data();
    preprocess(clip, recipe.rules, valid, kept, to);
    std::fill(to + clip.bodies * size, to + whole.size(), 0.0F);
    if (clip.bodies <= wanted) return whole;
    Frames first({wanted, kept, clip.joints, clip.channels});
    std::copy(to, to + wanted * size, first.mutable_data());
    return first;
}

}  // namespace

void bind_edge(py::module_& module) {
    py::register_exception<edge::Error>(module, "EdgeError", PyExc_ValueError);
    py::class_<Network, std::shared_ptr<Network>>(module, "EdgeNetwork")
        .def(py::init(&make_network), py::arg("path"), py::arg("most_frames"))
        .def_property_readonly("description", [](const Network& network) { return network.model().description; })
        .def("prepare", &prepare, py::arg("frames").noconvert());
    py::class_<Session>(module, "EdgeSession")
        .def(py::init(&make_session), py::arg("network"), py::arg("most_rows"), py::arg("threads"))
        .def_property_readonly("missing", &Session::missing)
        .def("run", &run, py::arg("clips").noconvert());
}

}  // namespace asma::bindings
