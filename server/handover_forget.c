/* Deletions that Redis could not be told of when they happened. Until it is told another replica
 * could bring the stream back, so it is told as soon as it is there, before anything else is asked.
 *
 * Kept is no session, whose state would stay with it, but its name and token. A record ends by
 * itself when a lease and `stream_linger` have passed since it was last written; so does what is
 * kept here, of which there are at most FORGOTTEN_MAX: of more the oldest goes, whose record is the
 * first to end. What a process has not told when it ends the next one tells (handover_disk.c). The
 * thread's alone. */
#include "server/handover_parts.h"

#include "server/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORGOTTEN_AT_ONCE = 128 };

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
    if (h->forgotten.count == 0)
        forgotten_unlink(h);
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

/* At the list's end; or NULL. */
static struct forgotten *append(struct handover *h, const char *owner, const char *id)
{
    struct forgotten_list *l = &h->forgotten;
    const size_t owner_size = strlen(owner) + 1, id_size = strlen(id) + 1;
    make_room(h);
    struct forgotten *f = calloc(1, sizeof *f + owner_size + id_size);
    if (!f)
        return NULL;
    memcpy(f->names, owner, owner_size);
    memcpy(f->names + owner_size, id, id_size);
    f->id = f->names + owner_size;
    if (l->tail)
        l->tail->next = f;
    else
        l->head = f;
    l->tail = f;
    l->count++;
    return f;
}

bool forgotten_add(struct handover *h, const struct session *s)
{
    const double seconds = h->config->stream_lease + h->config->stream_linger;
    struct forgotten *f = append(h, owner_name(s->params.owner), s->id);
    if (!f)
        return false;
    memcpy(f->token, s->lease.token, sizeof f->token);
    f->force = !s->lease.had;
    f->until = clock_ns() + (uint64_t)(seconds * 1e9);
    forgotten_write(h);
    metric_set(h->metrics, METRIC_HANDOVER_FORGOTTEN, (double)h->forgotten.count);
    return true;
}

void forgotten_recall(struct handover *h, const char *owner, const char *id,
                      const struct forgotten *like)
{
    struct forgotten *f = append(h, owner, id);
    if (!f)
        return;
    memcpy(f->token, like->token, sizeof f->token);
    f->force = like->force;
    f->until = like->until;
    metric_set(h->metrics, METRIC_HANDOVER_FORGOTTEN, (double)h->forgotten.count);
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
    if (h->forgotten.fd >= 0)
        close(h->forgotten.fd);
    h->forgotten.fd = -1;
}
