/* Whose states go when all together take too much: of the owner that holds most, of those that have
 * idle ones, the one that was idle for longest. So who floods loses his own streams, and nobody
 * else's. Pure; the caller has the lock that its sessions want. */
#ifndef TV3S_SERVER_SHED_H
#define TV3S_SERVER_SHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct owner;
struct session;

struct held {
    struct session *session;
    const struct owner *owner;
    uint64_t bytes;
    uint64_t touched; /* clock_ns */
    bool idle;        /* it may go */

    /* shed_sort's, of an owner's first: */
    uint64_t all;     /* bytes of the owner */
    size_t next, end; /* the first that may go; where the next owner's begin */
};

/* Once, before the first shed_next. */
void shed_sort(struct held *held, size_t count);
/* The next to go, which counts no more; NULL: none may. */
struct held *shed_next(struct held *held, size_t count);

#endif
