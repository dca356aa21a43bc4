/* A decoding process from inside. Inside sandbox/ only; who includes this runs in the child:
 *
 *   child.c          its birth, its memory, its words
 *   child_video.c    CHILD_VIDEO
 *   child_device.c   the same on a CUDA device: its start, its pictures
 *   child_live.c     CHILD_IMAGES, CHILD_PACKETS */
#ifndef TV3S_SANDBOX_CHILD_H
#define TV3S_SANDBOX_CHILD_H

#include "sandbox/wire.h"

#include "media/decode.h"

#include <sys/types.h>

enum { CHILD_FDS = 3 }; /* its socket, its memory, its file */

struct child_birth {
    pid_t zygote;
    int confined;           /* CONFINED_NAMESPACES or 0 */
    uint64_t address_space; /* bytes that the zygote has */
};

struct child {
    const struct child_order *order;
    uint8_t *memory;
    int file;
};

/* The fork's own life: decodes until the daemon closes the socket. */
_Noreturn void child_main(const struct child_order *order, const struct child_birth *birth,
                          const int fd[CHILD_FDS]);

/* These end the process when the daemon is gone. */
void child_tell(const struct wire_reply *reply);
void child_hear(struct wire_request *request);
/* The same where a descriptor may come along: -1, or the caller's to close. */
void child_hear_fd(struct wire_request *request, int *fd);

/* TELL_FAILED with the calling thread's err_text(). */
void child_tell_error(enum err e);
void child_set_text(struct wire_reply *reply, const char *text);

/* A frame whose pixels are the slot's; what it became, to be told. */
struct frame child_slot(const struct child *c, int slot);
void child_set_picture(struct wire_reply *reply, const struct frame *f);

/* The driver of the order's device is started, and has done all that a video may ask of it, with a
 * clip of ours; and the process is confined as such a one is. `memory` as confine_device has it.
 * ERR_UNSUPPORTED, ERR_DEVICE, ERR_NOMEM. */
enum err child_device_start(const struct child_order *order, uint64_t memory, int *confined);

/* Where the daemon wants a video's pictures. */
struct child_room {
    struct device_memory *memory; /* NULL: there is none */
    uint64_t slot_bytes;
    int slot[WIRE_SLOTS_MAX]; /* of the frames that may be made, by number % slots; below 0: none */
    char why[128];            /* there is none, or "" */
};
/* What ASK_DEVICE says; `fd` is taken. `first` is the number of the frame that is being made. */
void child_room_open(struct child_room *room, const struct child_order *order,
                     const struct wire_request *q, int fd, int64_t first);
/* decode_device.take of the frame of that number. */
enum err child_room_put(struct child_room *room, const struct child_order *order, int64_t number,
                        const struct device_nv12 *picture, struct frame *f);

_Noreturn void child_video(const struct child *c);
_Noreturn void child_images(const struct child *c);
_Noreturn void child_packets(const struct child *c);

#endif
