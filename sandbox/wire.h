/* What the daemon and its decoding processes say to each other. Inside sandbox/ only.
 *
 *     daemon --- SOCK_SEQPACKET --- zygote            struct zygote_request
 *       |    \-- a pair for each -- |                 struct zygote_reply
 *       |                             | fork
 *       +------- SOCK_SEQPACKET --- child             struct wire_request, wire_reply
 *       +------- memfd -------------- child           [input][slot 0][slot 1]...
 *
 * Both ends are one binary, so the structs have no version. A child may be anybody's: of what it
 * says nothing is used before wire_check has looked at a copy of it, and of its memory nothing but
 * pixels, which may be any.
 *
 * A video: OPENED or FAILED; then FRAME after FRAME, in slot 0, 1, ..., 0, ..., and END or FAILED.
 * The child is ahead by as many frames as there are slots; TAKEN gives the oldest slot back. At any
 * time NEED asks for bytes of a file that still grows and is answered by BYTES, and REPORT tells of
 * damage. A child that decodes on a device asks for memory there with its first picture: ROOM,
 * once, is answered by DEVICE, which comes with a descriptor where there is any. Of its slots the
 * daemon says with each TAKEN which one the frame after those that are under way may go to; a frame
 * is there, or in the ordinary slot. Images: DECODE, then IMAGE or FAILED. Packets: PACKET, then
 * one or more RESULT, the next one after NEXT while there are `more`; the first has the error of
 * the packet itself. */
#ifndef TV3S_SANDBOX_WIRE_H
#define TV3S_SANDBOX_WIRE_H

#include "base/err.h"
#include "base/pixels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_SLOTS_MAX = 8, WIRE_TEXT = 512, WIRE_SLACK = 128 }; /* bytes behind a slot's pixels */
enum { WIRE_REPORTS_MAX = 256 }; /* of a video: it may be damaged everywhere */

enum child_kind { CHILD_VIDEO = 1, CHILD_IMAGES, CHILD_PACKETS };

/* What a child is to be; whole pages. */
struct child_order {
    enum child_kind kind;
    int32_t codec; /* CHILD_PACKETS: enum packet_codec */
    uint64_t input_bytes, slot_bytes;
    int32_t slots;
    int32_t nicer; /* by so much than the daemon */
    int64_t max_pixels;
    uint64_t memory;      /* bytes of its own that it may take */
    uint32_t cpu_seconds; /* until it is allowed more */
    bool growing;         /* CHILD_VIDEO */
    bool nv12;            /* CHILD_VIDEO, CHILD_PACKETS: pictures may be NV12 */
    int32_t device;       /* CHILD_VIDEO: number + 1 of the CUDA device that decodes; 0: none */
    uint64_t device_slot_bytes; /* there; 0 until there are any. The daemon's own */
};

enum zygote_what { ZYGOTE_SPAWN = 1, ZYGOTE_BURY, ZYGOTE_ALLOW };

/* Each comes with descriptors:
 *     SPAWN  where to answer, the child's socket, its memory, and for CHILD_VIDEO the file
 *     BURY   the child, which has ended and is reaped, and where to answer, if anybody asks
 *     ALLOW  the child, which gets cpu_seconds more */
struct zygote_request {
    enum zygote_what what;
    int32_t pid; /* ALLOW */
    struct child_order order;
};

struct zygote_reply {
    int32_t error;  /* errno, or 0 */
    int32_t pid;    /* SPAWN, which comes with the child's descriptor */
    int32_t signal; /* BURY: that ended it, or 0 */
};

enum wire_ask { ASK_DECODE = 1, ASK_PACKET, ASK_NEXT, ASK_TAKEN, ASK_BYTES, ASK_DEVICE };

struct wire_request {
    enum wire_ask what;
    uint64_t len;  /* DECODE, PACKET: bytes of input */
    int64_t bytes; /* BYTES: how many the file has; below 0: give up */
    bool nv12;     /* DECODE: the picture may be NV12 */
    int32_t slot;  /* TAKEN: on the device, for the frame that may be made now; below 0: none */
    /* DEVICE: the descriptor's slots, of which the frames that may be made by now have the first,
     * in their order. 0: there is no memory. */
    int32_t slots;
    uint64_t slot_bytes;
};

enum wire_what {
    TELL_READY = 1, /* the first word: confined, as `value` says; or FAILED */
    TELL_FAILED,
    TELL_OPENED,
    TELL_NEED,
    TELL_REPORT,
    TELL_FRAME,
    TELL_END,
    TELL_IMAGE,
    TELL_RESULT,
    TELL_ROOM,
    TELL_COUNT
};

enum wire_outcome { OUTCOME_NONE, OUTCOME_FRAME, OUTCOME_EMPTY, OUTCOME_FAILED };

struct wire_reply {
    enum wire_what what;
    enum err error, sent;  /* FAILED and OUTCOME_FAILED; RESULT: of the packet */
    int32_t width, height; /* FRAME, IMAGE, RESULT; ROOM: of the first picture */
    int64_t pts, duration; /* FRAME */
    int64_t corrupt;       /* FRAME, END */
    int64_t value;         /* READY: enum confined; NEED: offset; RESULT: the packet's number */
    enum wire_outcome outcome;
    int32_t more, held; /* RESULT */
    int64_t frames;     /* OPENED, as struct decode_info; what follows too */
    int32_t tb_num, tb_den;
    double rate;
    int32_t still;
    int32_t layout, matrix, full; /* with width and height: struct pixel_format */
    int32_t nvdec, on_device;     /* FRAME: which decoder made it, and where it is: 0 or 1 */
    char text[WIRE_TEXT];         /* with every error, and REPORT; FRAME: why not nvdec, or "" */
};

/* Whether `len` bytes that a child of `order` sent are a reply that it may give, and then *out is a
 * copy in which every field is in its range: sizes fit in a slot, times in their sums, texts end,
 * errors are those that a decoder has. Pure. */
bool wire_check(const struct child_order *order, const void *bytes, size_t len,
                struct wire_reply *out);

/* Bytes of the shared memory; where a slot begins. */
static inline uint64_t wire_memory(const struct child_order *o)
{
    return o->input_bytes + (uint64_t)o->slots * o->slot_bytes;
}

static inline uint64_t wire_slot(const struct child_order *o, int slot)
{
    return o->input_bytes + (uint64_t)slot * o->slot_bytes;
}

#endif
