// asma_edge.h, in terms of sessions.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>

#include "core/scratch.hpp"
#include "cpu/dispatch.hpp"
#include "edge/asma_edge.h"
#include "edge/continual_stream.hpp"
#include "edge/pooling.hpp"
#include "edge/window_stream.hpp"

struct asma_edge_model {
    std::shared_ptr<const asma::edge::Network> network;
};

struct asma_edge_session {
    std::shared_ptr<asma::edge::Session> session;
};

struct asma_edge_stream {
    std::unique_ptr<asma::edge::Stream> stream;
};

namespace {

using asma::edge::Error;

void tell(const char* what, char* error, std::size_t size) {
    if (!error || size == 0) return;
    const std::size_t length = std::min(size - 1, std::strlen(what));
    std::memcpy(error, what, length);
    error[length] = 0;
}

// What `work` gives; where it throws, `failed`, the sentence told. Nothing is thrown into a program in C.
template <class Result, class Work> Result guarded(Result failed, char* error, std::size_t size, Work&& work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        tell("there is not enough memory", error, size);
    } catch (const std::exception& thrown) {
        tell(thrown.what(), error, size);
    }
    return failed;
}

void given(const void* pointer, const char* name) {
    if (!pointer) throw Error(std::string(name) + " must not be NULL");
}

// The settings of a program that was compiled for an earlier header end before later ones: those are as by default.
asma_edge_stream_settings whole(const asma_edge_stream_settings& given) {
    asma_edge_stream_settings settings = asma_edge_stream_defaults();
    if (given.size < offsetof(asma_edge_stream_settings, mode) || given.size > sizeof settings)
        throw Error(
            "settings must come from asma_edge_stream_defaults of this version of the library, with a size of " +
            std::to_string(offsetof(asma_edge_stream_settings, mode)) + " to " + std::to_string(sizeof settings) +
            " bytes, got " + std::to_string(given.size));
    std::memcpy(&settings, &given, given.size);
    return settings;
}

}  // namespace

extern "C" {

const char* asma_edge_version(void) {
    return ASMA_VERSION;
}

const char* asma_edge_instruction_set(void) {
    return guarded<const char*>(nullptr, nullptr, 0, [] { return asma::cpu::instruction_set(); });
}

asma_edge_model* asma_edge_load(const char* path, int64_t max_frames, char* error, size_t error_size) {
    return guarded<asma_edge_model*>(nullptr, error, error_size, [&] {
        given(path, "path");
        return new asma_edge_model{std::make_shared<asma::edge::Network>(asma::edge::load_model(path), max_frames)};
    });
}

void asma_edge_free(asma_edge_model* model) {
    delete model;
}

int64_t asma_edge_joints(const asma_edge_model* model) {
    return model ? model->network->model().joints : 0;
}
int64_t asma_edge_channels(const asma_edge_model* model) {
    return model ? model->network->model().channels : 0;
}
int64_t asma_edge_classes(const asma_edge_model* model) {
    return model ? model->network->classes() : 0;
}

const char* asma_edge_class_name(const asma_edge_model* model, int64_t index) {
    if (index < 0 || index >= asma_edge_classes(model)) return nullptr;
    return model->network->model().classes[static_cast<std::size_t>(index)].c_str();
}

int asma_edge_takes_recordings(const asma_edge_model* model) {
    return model && model->network->model().recipe ? 1 : 0;
}

asma_edge_session* asma_edge_open(const asma_edge_model* model, int64_t max_clips, int64_t max_bodies, int threads,
                                  char* error, size_t error_size) {
    return guarded<asma_edge_session*>(nullptr, error, error_size, [&] {
        given(model, "model");
        const std::int64_t rows = asma::edge::rows_of(*model->network, max_clips, max_bodies);
        return new asma_edge_session{std::make_shared<asma::edge::Session>(model->network, rows, threads)};
    });
}

void asma_edge_close(asma_edge_session* session) {
    delete session;
}

int asma_edge_run(asma_edge_session* session, const float* prepared, int64_t clips, int64_t bodies, int64_t frames,
                  float* logits, char* error, size_t error_size) {
    return guarded(1, error, error_size, [&] {
        given(session, "session"), given(prepared, "prepared"), given(logits, "logits");
        session->session->run(prepared, clips, bodies, frames, logits);
        return 0;
    });
}

int asma_edge_classify(asma_edge_session* session, const float* recording, int64_t bodies, int64_t frames,
                       float* probabilities, char* error, size_t error_size) {
    return guarded(1, error, error_size, [&] {
        given(session, "session"), given(recording, "recording"), given(probabilities, "probabilities");
        asma::edge::Session& opened = *session->session;
        const asma::edge::Model& model = opened.network().model();
        asma::ClipView view;
        view.data = recording;
        view.bodies = bodies, view.frames = frames, view.joints = model.joints, view.channels = model.channels;
        view.channel_stride = 1, view.joint_stride = model.channels;
        view.frame_stride = model.joints * model.channels;
        view.body_stride = asma::checked_product({frames, view.frame_stride});
        opened.run_recording(view, probabilities);
        const std::int64_t classes = opened.network().classes();
        const asma::edge::Softmax softmax(probabilities, classes);
        std::transform(probabilities, probabilities + classes, probabilities,
                       [&](float logit) { return static_cast<float>(softmax(logit)); });
        return 0;
    });
}

int64_t asma_edge_missing(const asma_edge_session* session) {
    return session ? session->session->missing() : 0;
}

asma_edge_stream_settings asma_edge_stream_defaults(void) {
    const asma::edge::WindowSettings wanted;
    const asma::edge::ContinualSettings continual;
    const asma::edge::DecisionSettings& decision = wanted.decision;
    return {sizeof(asma_edge_stream_settings),
            wanted.seconds,
            wanted.least_seconds,
            wanted.hop,
            wanted.bodies,
            wanted.rate,
            wanted.max_rate,
            wanted.gap,
            decision.smoothing,
            decision.unknown_below,
            decision.hysteresis,
            ASMA_EDGE_WINDOW,
            continual.pool,
            continual.spread,
            continual.streams};
}

asma_edge_stream* asma_edge_stream_open(const asma_edge_session* session, const asma_edge_stream_settings* settings,
                                        char* error, size_t error_size) {
    return guarded<asma_edge_stream*>(nullptr, error, error_size, [&] {
        given(session, "session"), given(settings, "settings");
        const asma_edge_stream_settings told = whole(*settings);
        const auto common = [&](asma::edge::StreamSettings& wanted) {
            wanted.bodies = told.bodies, wanted.rate = told.rate, wanted.gap = told.gap;
            wanted.decision = {told.smoothing, told.unknown_below, told.hysteresis};
        };
        if (told.mode == ASMA_EDGE_CONTINUAL) {
            asma::edge::ContinualSettings wanted;
            common(wanted);
            wanted.pool = told.pool, wanted.spread = told.spread != 0, wanted.streams = told.streams;
            return new asma_edge_stream{std::make_unique<asma::edge::ContinualStream>(*session->session, wanted)};
        }
        if (told.mode != ASMA_EDGE_WINDOW)
            throw Error("mode must be ASMA_EDGE_WINDOW or ASMA_EDGE_CONTINUAL, got " + std::to_string(told.mode));
        asma::edge::WindowSettings wanted;
        common(wanted);
        wanted.seconds = told.seconds, wanted.least_seconds = told.least_seconds;
        wanted.hop = told.hop, wanted.max_rate = told.max_rate;
        return new asma_edge_stream{std::make_unique<asma::edge::WindowStream>(session->session, wanted)};
    });
}

int asma_edge_stream_push(asma_edge_stream* stream, const float* frame, int64_t bodies, const double* time,
                          const int64_t* ids, float* probabilities, int64_t* named, char* error, size_t error_size) {
    return guarded(-1, error, error_size, [&] {
        given(stream, "stream"), given(probabilities, "probabilities"), given(named, "named");
        if (bodies > 0) given(frame, "frame");
        asma::edge::Stream& pushed = *stream->stream;
        const bool answered = pushed.push(frame, bodies, time, ids, [&](const asma::edge::StreamAnswer* answers) {
            float* to = probabilities;
            for (std::int64_t i = 0; i < pushed.streams(); ++i) {
                to = std::copy(answers[i].probabilities.begin(), answers[i].probabilities.end(), to);
                named[i] = answers[i].named;
            }
        });
        return answered ? 1 : 0;
    });
}

int asma_edge_stream_reset(asma_edge_stream* stream, char* error, size_t error_size) {
    return guarded(1, error, error_size, [&] {
        given(stream, "stream");
        stream->stream->reset();
        return 0;
    });
}

int64_t asma_edge_stream_missing(const asma_edge_stream* stream) {
    return stream ? stream->stream->missing() : 0;
}
int64_t asma_edge_stream_restarts(const asma_edge_stream* stream) {
    return stream ? stream->stream->restarts() : 0;
}
void asma_edge_stream_close(asma_edge_stream* stream) {
    delete stream;
}

}  // extern "C"
