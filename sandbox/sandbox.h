/* Decoding in processes that have no rights: the daemon's side.
 *
 * What comes from outside is parsed by FFmpeg in children (zygote.h, confine.h) that hold nothing
 * but that one input: one for each video, one for each stream of packets, one for each thread that
 * decodes images. Pictures come back through shared memory. A child that crashes, hangs, is killed
 * or says what it cannot say costs its own input an ERR_DECODER; the next input gets a new child.
 *
 * What it costs, in CPU time of daemon and children together: an image of 256x160 0.37 ms in place
 * of 0.35, a frame of H.264 of that size 0.78 in place of 0.74 (medians of six rounds of each
 * beside the other, on two cores of a Zen 5 that were busy with other things too): copying it out
 * of the shared memory, and waking up twice. A child works ahead of the daemon by four frames of a
 * video.
 *
 * The decoders themselves are in video.h, packets.h and images.h, which work in the calling process
 * where they are given no sandbox. */
#ifndef TV3S_SANDBOX_SANDBOX_H
#define TV3S_SANDBOX_SANDBOX_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct sandbox;

/* How a child ended that was not to end. */
enum sandbox_end {
    SANDBOX_CRASHED,   /* a fault, an assertion */
    SANDBOX_KILLED,    /* by SIGKILL: the kernel for lack of memory, or somebody */
    SANDBOX_FORBIDDEN, /* a system call that is not on the list */
    SANDBOX_HUNG,      /* no answer in time: we ended it */
    SANDBOX_SPENT,     /* its CPU time is used up */
    SANDBOX_LIED,      /* an answer that no decoder gives: we ended it */
    SANDBOX_ENDS
};

struct sandbox_options {
    int64_t max_pixels; /* of a frame */
    uint64_t max_input; /* bytes of an image or a packet */
    double patience;    /* seconds for one frame */
    /* Any of these threads; may be NULL. `who` is what the decoder was opened with. */
    void (*started)(void *ctx);
    void (*ended)(void *ctx); /* also after `died` */
    void (*died)(void *ctx, enum sandbox_end how, const char *who, const char *text);
    void *ctx;
};

/* Starts the process that makes the children; another takes its place when it dies. main() begins
 * as zygote.h says. ERR_UNSUPPORTED when children cannot be confined here, ERR_IO, ERR_NOMEM. */
enum err sandbox_open(const struct sandbox_options *o, struct sandbox **out);
/* After all decoders are closed. No process stays. NULL is allowed. */
void sandbox_close(struct sandbox *s);

/* What holds the children beside the filter, for the log: "seccomp landlock namespaces". */
const char *sandbox_means(const struct sandbox *s);

/* While a decoder waits for its child; all may be NULL. */
struct sandbox_wait {
    bool (*cancelled)(void *ctx); /* polled some times a second: ERR_CANCELLED */
    void (*late)(void *ctx);      /* after each SANDBOX_LATE_MS */
    void *ctx;
};
enum { SANDBOX_LATE_MS = 300 }; /* more than a large image takes: another thread costs too */

#endif
