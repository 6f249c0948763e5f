/* Trained networks of asma_fast in programs without Python.
 *
 *     asma_edge_model *model = asma_edge_load("student.safetensors", 300, error, sizeof error);
 *     asma_edge_session *session = asma_edge_open(model, 1, 2, 1, error, sizeof error);
 *     asma_edge_classify(session, recording, 2, 80, probabilities, error, sizeof error);
 *
 * A function that can fail returns NULL, or a number other than 0, and then writes a sentence to `error`: at most
 * `error_size` bytes, a zero at their end; NULL where none is wanted. Neither a damaged file nor a wrong argument ends
 * the program, as long as an array is as long as is told below.
 *
 * Arrays are float32, dense, in C order. A body that is absent from a frame is all zeros there; one that has a number
 * that is not finite counts as absent. A model may be shared by threads; a session and a stream run one call at a time,
 * and refuse another. What only tells a number tells 0 of NULL. */
#ifndef ASMA_EDGE_H
#define ASMA_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ASMA_EDGE_API __attribute__((visibility("default")))
#else
#define ASMA_EDGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct asma_edge_model asma_edge_model;
typedef struct asma_edge_session asma_edge_session;

/* That of the library that runs, as "1.2.3". */
ASMA_EDGE_API const char* asma_edge_version(void);
/* Whose kernels run: "generic", "avx2", "avx512" or "neon"; the best of this processor, or what the environment's
 * ASMA_ISA asks for. NULL where it asks for one that is not here. */
ASMA_EDGE_API const char* asma_edge_instruction_set(void);

/* Loads a model file, written by asma_fast.edge.export, for clips of at most `max_frames` frames. */
ASMA_EDGE_API asma_edge_model* asma_edge_load(const char* path, int64_t max_frames, char* error, size_t error_size);
/* Sessions keep what they need of it. NULL is let pass. */
ASMA_EDGE_API void asma_edge_free(asma_edge_model* model);

ASMA_EDGE_API int64_t asma_edge_joints(const asma_edge_model* model);
/* Numbers of a joint: coordinates, then scores. */
ASMA_EDGE_API int64_t asma_edge_channels(const asma_edge_model* model);
ASMA_EDGE_API int64_t asma_edge_classes(const asma_edge_model* model);
/* UTF-8, as long as the model lives; NULL where there is no such class. */
ASMA_EDGE_API const char* asma_edge_class_name(const asma_edge_model* model, int64_t index);
/* 1 where the file tells how recordings are prepared; 0: the network reads clips that are prepared already. */
ASMA_EDGE_API int asma_edge_takes_recordings(const asma_edge_model* model);

/* Takes all memory that runs of `max_clips` clips of `max_bodies` bodies need, and no thread beside the caller's at 1
 * of `threads`. Results do not depend on their number. */
ASMA_EDGE_API asma_edge_session* asma_edge_open(const asma_edge_model* model, int64_t max_clips, int64_t max_bodies,
                                                int threads, char* error, size_t error_size);
/* NULL is let pass. */
ASMA_EDGE_API void asma_edge_close(asma_edge_session* session);

/* Prepared clips (clips, bodies, frames, joints, channels) to logits (clips, classes). Allocates nothing. */
ASMA_EDGE_API int asma_edge_run(asma_edge_session* session, const float* prepared, int64_t clips, int64_t bodies,
                                int64_t frames, float* logits, char* error, size_t error_size);
/* One recording (bodies, frames, joints, channels), in the units and axes of the training data, to the probabilities
 * of its classes. */
ASMA_EDGE_API int asma_edge_classify(asma_edge_session* session, const float* recording, int64_t bodies, int64_t frames,
                                     float* probabilities, char* error, size_t error_size);
/* Bodies of frames that had a number that is not finite, since the session was opened. */
ASMA_EDGE_API int64_t asma_edge_missing(const asma_edge_session* session);

/* Frames one by one, as a camera gives them. In mode window: every few frames, what the session says of the last
 * seconds. In mode continual, of causal networks: each frame takes a small part of a clip's work, in memory of the
 * stream's own; it says what the network says of all frames since the stream began, as often as the network's strides
 * allow. */
typedef struct asma_edge_stream asma_edge_stream;

#define ASMA_EDGE_WINDOW 0
#define ASMA_EDGE_CONTINUAL 1

typedef struct asma_edge_stream_settings {
    size_t size;          /* of this struct, by which a later library knows what is in it */
    double seconds;       /* window: its length */
    double least_seconds; /* window: since the stream began, before its first answer; negative: `seconds` */
    int64_t hop;          /* window: frames from one answer to the next */
    int64_t bodies;       /* at most so many in a frame; 0: as many as the network reads of a recording */
    double rate;          /* frames a second. window: where they come without times; negative: the model's, or 30.
                             continual: that the network reads, by which all times go; negative: the model's */
    double max_rate;      /* window: frames a second for which memory is taken */
    double gap;           /* seconds without a frame, after which the stream begins anew */
    double smoothing;     /* share that the probabilities before have in those of now, under 1 */
    double unknown_below; /* a class that is less likely is not named anew */
    double hysteresis;    /* the named one stays until another is likelier by more, or it is so much less likely */
    int mode;             /* ASMA_EDGE_WINDOW or ASMA_EDGE_CONTINUAL */
    int64_t pool;         /* continual: outputs of the last block that count; 0: as many as a training clip has */
    int spread;           /* continual: 1: about the same work every frame; answers come some frames later */
    int64_t streams;      /* continual: people or cameras that are pushed at once, each with its own answers */
} asma_edge_stream_settings;

/* To be changed where others are wanted. */
ASMA_EDGE_API asma_edge_stream_settings asma_edge_stream_defaults(void);

/* The stream keeps what it needs of the session. In mode window it runs as one of its calls: not while another is at
 * work. */
ASMA_EDGE_API asma_edge_stream* asma_edge_stream_open(const asma_edge_session* session,
                                                      const asma_edge_stream_settings* settings, char* error,
                                                      size_t error_size);
/* One frame (bodies, joints, channels) as recorded, at a time in seconds (NULL: at `rate`), with a track id for each
 * body (NULL: a body's row is its place). 1: there is an answer, smoothed probabilities (classes) and the class, or −1:
 * unknown, or nobody is there; 0: not yet; −1: an error: a frame that is refused changes nothing. Of several streams
 * all arrays begin with an axis of them: `bodies` are those of each. */
ASMA_EDGE_API int asma_edge_stream_push(asma_edge_stream* stream, const float* frame, int64_t bodies,
                                        const double* time, const int64_t* ids, float* probabilities, int64_t* named,
                                        char* error, size_t error_size);
/* As if no frame had come. */
ASMA_EDGE_API int asma_edge_stream_reset(asma_edge_stream* stream, char* error, size_t error_size);
/* Since the stream was opened: bodies that had a number that is not finite, and how often it began anew after a gap. */
ASMA_EDGE_API int64_t asma_edge_stream_restarts(const asma_edge_stream* stream);
ASMA_EDGE_API int64_t asma_edge_stream_missing(const asma_edge_stream* stream);
/* NULL is let pass. */
ASMA_EDGE_API void asma_edge_stream_close(asma_edge_stream* stream);

#ifdef __cplusplus
}
#endif

#endif
