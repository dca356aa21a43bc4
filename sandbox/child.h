/* A decoding process from inside. Inside sandbox/ only; who includes this runs in the child:
 *
 *   child.c          its birth, its memory, its words
 *   child_video.c    CHILD_VIDEO
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

/* Both end the process when the daemon is gone. */
void child_tell(const struct wire_reply *reply);
void child_hear(struct wire_request *request);

/* TELL_FAILED with the calling thread's err_text(). */
void child_tell_error(enum err e);
void child_set_text(struct wire_reply *reply, const char *text);

/* A frame whose pixels are the slot's; what it became, to be told. */
struct frame child_slot(const struct child *c, int slot);
void child_set_picture(struct wire_reply *reply, const struct frame *f);

_Noreturn void child_video(const struct child *c);
_Noreturn void child_images(const struct child *c);
_Noreturn void child_packets(const struct child *c);

#endif
