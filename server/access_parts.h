/* Access from inside; nobody but server/access*.c includes this.
 *
 *   access.c        who is asking, and whether it may
 *   access_keys.c   the key file
 *   access_limits.c what a key may use
 *   access_pages.c  what browsers are made to ask by pages of other sites */
#ifndef TV3S_SERVER_ACCESS_PARTS_H
#define TV3S_SERVER_ACCESS_PARTS_H

#include "server/access.h"

#include <pthread.h>
#include <stdatomic.h>

enum { HASHES_MAX = 8 }; /* of one name: the old key and the new one, while they are changed */

/* What the key file says of a name. */
struct grant {
    char name[KEY_NAME];
    uint8_t hash[HASHES_MAX][KEY_HASH];
    int hashes;
    unsigned roles;
    double frames_per_second; /* 0: no limit, as of the others */
    uint64_t streams, jobs, upload_bytes;
};

struct owner {
    struct owner *next; /* fixed once it is in the list */
    char name[KEY_NAME];

    /* access.lock */
    uint8_t hash[HASHES_MAX][KEY_HASH];
    int hashes;

    atomic_uint roles;
    _Atomic double frames_per_second;
    atomic_ullong max_streams, max_jobs, max_upload_bytes;
    atomic_ullong streams, jobs, upload_bytes; /* in use */
    atomic_ullong spool_bytes;                 /* of all files of its uploads */

    pthread_mutex_t lock; /* guards the bucket of frames */
    double tokens;
    uint64_t filled; /* clock_ns */
};

struct access {
    const char *file; /* the configuration's; "" without keys */
    pthread_mutex_t lock;
    struct owner *owners;
    struct owner *nobody; /* without a key file: who may do all */
    bool this_machine;    /* and it must come from this one */
};

/* The grants of a key file, malloc'd. ERR_IO, ERR_FORMAT. */
enum err keys_read(const char *path, struct grant **out, size_t *count);

#endif
