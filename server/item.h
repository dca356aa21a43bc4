/* The frame that travels: socket -> decode -> schedule -> engine -> encode -> socket.
 *
 * One `struct item` is one frame of one session. Exactly one thread owns it at any time, and hands
 * it on through a queue; every stage fills its part and stamps its time. A stage that fails sets
 * `error` and sends the item straight to `deliver`: an item is always delivered, exactly once. */
#ifndef TV3S_SERVER_ITEM_H
#define TV3S_SERVER_ITEM_H

#include "base/buf.h"
#include "base/err.h"
#include "base/pixels.h"
#include "proto/mask.h"

#include <stdbool.h>
#include <stdint.h>

struct session;
struct device_picture;

enum item_kind {
    ITEM_IMAGE = 1, /* an image file: JPEG, PNG, WebP, ... */
    ITEM_RGB24,
    ITEM_NV12,
    ITEM_PACKET,  /* one packet of a video codec; input.len 0 gives up what is in the decoder */
    ITEM_DECODED, /* pixels are there already: a job's frame */
    ITEM_COMMAND  /* no frame: a struct command among the frames (sched.c) */
};

enum item_codec { CODEC_NONE, CODEC_H264, CODEC_HEVC, CODEC_VP8, CODEC_VP9, CODEC_AV1 };

#define ITEM_NO_PTS INT64_MIN

struct item {
    struct item *next;       /* of whatever list holds it */
    struct session *session; /* a reference, dropped by item_free */

    /* the network thread */
    enum item_kind kind;
    enum item_codec codec;
    bool key_frame, silent; /* silent: advance the state, send no mask */
    int64_t seq;
    int64_t pts; /* microseconds, or ITEM_NO_PTS */
    struct buf input;
    int width, height; /* RGB24, NV12: as said; later: of the frame */
    enum mask_format format;

    /* decode worker */
    uint8_t *pixels; /* packed rows; RGB24 but where session_takes_nv12 */
    struct pixel_format pixel_format;
    struct device_picture *picture; /* not NULL: they are there, on a device, and `pixels` is not;
                                       ours, and let go when the engine is done with it */

    /* sched_submit */
    double gflop; /* of this frame in the engine */

    /* engine thread */
    uint8_t *labels; /* width * height */
    bool applied;    /* its effect is in the state */
    bool from_zero;  /* the state was zero before this frame */
    bool restarted;  /* ... because the size changed */

    /* encode worker */
    struct buf output;

    enum err error; /* ERR_OK, or why there is no mask */
    char error_text[256];
    bool dropped; /* by the drop policy, set by the network thread: neither mask nor error. Only a
                     packet comes so far: it is decoded for those after it and then delivered */
    bool empty;   /* a packet without a picture (PACKET_EMPTY): neither mask nor error. A packet
                     item without input ends its sequence: see media/packet.h */
    bool forget;  /* of such an item: what the decoder still holds comes out `empty` */

    /* monotonic nanoseconds: when the stage was done with it */
    uint64_t received, decoded, batched, labelled, encoded;

    /* Takes the item over, in whatever thread ends its way; frees it in the end (item_free). */
    void (*deliver)(struct item *item);
    void *owner; /* deliver's */
};

/* A zeroed item with a reference on `session` (NULL allowed), `received` stamped, the session's
 * format. It counts in session->in_flight until it is freed. NULL: no memory. */
struct item *item_new(struct session *session, enum item_kind kind);
void item_free(struct item *item); /* NULL is allowed */

/* Sets error and text from the calling thread's err_text(). Returns e. */
enum err item_fail(struct item *item, enum err e);

/* The end of an item's way, in every path: counts its outcome and calls item->deliver. */
struct metrics;
void item_deliver(struct item *item, struct metrics *m);

uint64_t clock_ns(void); /* CLOCK_MONOTONIC */

#endif
