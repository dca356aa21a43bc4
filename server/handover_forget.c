/* Deletions that Redis could not be told of when they happened. Until it is told another replica
 * could bring the stream back, so it is told as soon as it is there, before anything else is asked.
 *
 * Kept is no session, whose state would stay with it, but its name and token. A record ends by
 * itself when a lease and `stream_linger` have passed since it was last written; so does what is
 * kept here, of which there are at most FORGOTTEN_MAX: of more the oldest goes, whose record is the
 * first to end. What a process has not told when it ends is not told. The thread's alone. */
#include "server/handover_parts.h"

#include "server/log.h"

#include <stdlib.h>
#include <string.h>

enum { FORGOTTEN_MAX = 1 << 16, FORGOTTEN_AT_ONCE = 128 };

struct forgotten {
    struct forgotten *next;
    uint64_t until; /* clock_ns: the record has ended by then */
    bool force;
    char token[48];
    const char *id; /* in `names`, after the owner's */
    char names[];
};

/* The oldest. */
static void free_first(struct forgotten_list *l)
{
    struct forgotten *f = l->head;
    l->head = f->next;
    if (!l->head)
        l->tail = NULL;
    l->count--;
    free(f);
}

static void drop_first(struct handover *h)
{
    free_first(&h->forgotten);
    metric_set(h->metrics, METRIC_HANDOVER_FORGOTTEN, (double)h->forgotten.count);
}

static void drop_ended(struct handover *h)
{
    while (h->forgotten.head && clock_ns() >= h->forgotten.head->until)
        drop_first(h);
}

static void make_room(struct handover *h)
{
    struct forgotten_list *l = &h->forgotten;
    drop_ended(h);
    if (l->count < FORGOTTEN_MAX)
        return;
    log_event(LOG_WARNING, "deletion_lost", "stream=%s error=%s", l->head->id,
              log_text("too many wait for Redis"));
    drop_first(h);
}

bool forgotten_add(struct handover *h, const struct session *s)
{
    struct forgotten_list *l = &h->forgotten;
    const char *owner = owner_name(s->params.owner);
    const size_t owner_size = strlen(owner) + 1, id_size = strlen(s->id) + 1;
    const double seconds = h->config->stream_lease + h->config->stream_linger;
    make_room(h);
    struct forgotten *f = calloc(1, sizeof *f + owner_size + id_size);
    if (!f)
        return false;
    memcpy(f->names, owner, owner_size);
    memcpy(f->names + owner_size, s->id, id_size);
    f->id = f->names + owner_size;
    memcpy(f->token, s->lease.token, sizeof f->token);
    f->force = !s->lease.had;
    f->until = clock_ns() + (uint64_t)(seconds * 1e9);
    if (l->tail)
        l->tail->next = f;
    else
        l->head = f;
    l->tail = f;
    l->count++;
    metric_set(h->metrics, METRIC_HANDOVER_FORGOTTEN, (double)l->count);
    return true;
}

/* The oldest of them. False: Redis is away. */
static bool tell_some(struct handover *h)
{
    int count = 0;
    for (const struct forgotten *f = h->forgotten.head; f && count < FORGOTTEN_AT_ONCE;
         f = f->next, count++) {
        struct place place;
        place_of(h->config, f->names, f->id, &place);
        redis_ask_forget(&h->redis, &place, f->token, f->force);
    }
    for (int i = 0; i < count; i++) {
        if (!redis_read_done(&h->redis))
            return false;
        drop_first(h);
    }
    return true;
}

void forgotten_tell(struct handover *h)
{
    drop_ended(h);
    while (h->redis.context && h->forgotten.head)
        if (!tell_some(h))
            h->redis.broken = false; /* nobody asks at once what comes after this */
}

void forgotten_free(struct handover *h)
{
    while (h->forgotten.head)
        free_first(&h->forgotten);
}
