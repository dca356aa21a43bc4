/* One child, as the daemon holds it: socket, memory, life. Inside sandbox/ only.
 *
 * A link belongs to one thread at a time. After the first error of link_send or link_receive the
 * child is gone, its end was told, and all further calls give the same error. */
#ifndef TV3S_SANDBOX_LINK_H
#define TV3S_SANDBOX_LINK_H

#include "sandbox/sandbox.h"
#include "sandbox/wire.h"

#include <stddef.h>

struct link;

/* `order` but for what every child has. `file` is -1, or the caller's to close afterwards. `wait`
 * (or NULL) is for the zygote, and the child's first word. ERR_BUSY when no process is to be had,
 * ERR_NOMEM, ERR_UNSUPPORTED, ERR_DECODER, ERR_CANCELLED. *confined (or NULL): enum confined. */
enum err link_open(struct sandbox *s, const struct child_order *order, int file, const char *who,
                   const struct sandbox_wait *wait, int *confined, struct link **out);
/* Ends the child, and reaps it. NULL is allowed. */
void link_close(struct link *l);

/* Zeroed memory for who is to hold the link. NULL: ERR_NOMEM, and the link is closed. */
void *link_holder(struct link *l, size_t size);

enum err link_send(struct link *l, const struct wire_request *q);
/* With a descriptor, which stays the caller's; -1: none. Does not wait: of a child that takes
 * nothing it is the end. */
enum err link_send_fd(struct link *l, const struct wire_request *q, int fd);
/* The next reply, checked; `left` is how long the child may take for what it is asked, in
 * nanoseconds, and is reduced. ERR_DECODER, ERR_CANCELLED. */
enum err link_receive(struct link *l, const struct sandbox_wait *wait, int64_t *left,
                      struct wire_reply *out);
int64_t link_patience(const struct link *l);

/* The child said what it may not say now. */
enum err link_lied(struct link *l);
/* TELL_FAILED, or an OUTCOME_FAILED, as an error of the calling thread. */
enum err link_error(const struct link *l, enum err e, const struct wire_reply *r);

bool link_dead(const struct link *l);
enum err link_gone(const struct link *l); /* of a dead one: why */
const struct child_order *link_order(const struct link *l);
uint8_t *link_input(const struct link *l);
/* From now on it may say that a picture is on its device, if it fits there. */
void link_set_device_slots(struct link *l, uint64_t slot_bytes);
/* A copy of a picture that came in `slot` at f->pixels, which grows. NV12 that f->takes_nv12 does
 * not say is a lie. */
struct frame;
enum err link_take(struct link *l, int slot, const struct wire_reply *r, struct frame *f);

/* For the fuzzer: a link to whoever is at the other end of `fd`, which it takes. */
enum err link_to(const struct child_order *order, int fd, struct link **out);

#endif
