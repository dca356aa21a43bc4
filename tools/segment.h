/* tv3s segment: the pipeline decode -> engine -> encode over one input. */
#ifndef TV3S_TOOLS_SEGMENT_H
#define TV3S_TOOLS_SEGMENT_H

#include "engine/engine.h"
#include "proto/mask.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { SEGMENT_MAX_BATCH = 64 };

struct progress;

struct segment_job {
    const char *model, *input, *output;
    const enum mask_format *format; /* NULL: by the output's name */
    struct engine_config engine;
    struct stream_config stream;
    bool decode_on_cpu;          /* even where the engine's device could */
    int batch;                   /* frames of one engine step, 1..SEGMENT_MAX_BATCH */
    const atomic_int *interrupt; /* not 0: stop and leave nothing behind */
    struct progress *progress;
};

struct segment_result {
    int64_t frames, corrupt;
    double seconds;        /* from the first frame's decoding to the output's being complete */
    const char *decoder;   /* where frames were decoded: input_place */
    char decoder_why[256]; /* why not on the GPU, or "" */
};

/* Runs the job to its end. The output is whole on ERR_OK and untouched otherwise; ERR_CANCELLED
 * after an interrupt. */
enum err segment_run(const struct segment_job *job, struct segment_result *out);

/* ---- progress (segment_progress.c): lines on stderr, from any thread
 * ------------------------------ */

/* A bar if `visible` and stderr is a terminal. ERR_NOMEM. */
enum err progress_open(const char *name, bool visible, struct progress **out);
void progress_start(struct progress *p, int64_t expected); /* 0 = unknown */
void progress_frames(struct progress *p, int64_t done);
/* "NAME: warning: TEXT"; after 20 of them the rest is only counted. */
void progress_warn(struct progress *p, const char *text);
/* Takes the bar away, says how many warnings were left out, and sums up if visible. */
void progress_end(struct progress *p, const struct segment_result *r);
void progress_close(struct progress *p); /* takes the bar away; NULL is allowed */

#endif
