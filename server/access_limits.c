#include "server/access_parts.h"

#include "server/item.h"

const char *owner_name(const struct owner *o)
{
    return o ? o->name : "";
}

const char *owner_label(const struct owner *o)
{
    return o && o->name[0] ? o->name : "-";
}

bool owner_may(const struct owner *o, unsigned roles)
{
    return o && (atomic_load(&o->roles) & roles);
}

/* ---- counts -------------------------------------------------------------------------------------
 */

static bool take(atomic_ullong *used, uint64_t n, uint64_t most)
{
    unsigned long long now = atomic_load(used);
    do {
        if (most && (n > most || now > most - n))
            return false;
    } while (!atomic_compare_exchange_weak(used, &now, now + n));
    return true;
}

enum err owner_take_stream(struct owner *o)
{
    if (!o || take(&o->streams, 1, o->max_streams))
        return ERR_OK;
    return err_set(ERR_QUOTA, "this key may have %llu streams", atomic_load(&o->max_streams));
}

void owner_give_stream(struct owner *o)
{
    if (o)
        atomic_fetch_sub(&o->streams, 1);
}

enum err owner_take_job(struct owner *o)
{
    if (!o || take(&o->jobs, 1, o->max_jobs))
        return ERR_OK;
    return err_set(ERR_QUOTA, "this key may have %llu uploads that are not done",
                   atomic_load(&o->max_jobs));
}

void owner_give_job(struct owner *o)
{
    if (o)
        atomic_fetch_sub(&o->jobs, 1);
}

enum err owner_take_bytes(struct owner *o, uint64_t bytes)
{
    if (!o || take(&o->upload_bytes, bytes, o->max_upload_bytes))
        return ERR_OK;
    return err_set(ERR_QUOTA, "the uploads of this key may have %llu bytes together",
                   atomic_load(&o->max_upload_bytes));
}

void owner_give_bytes(struct owner *o, uint64_t bytes)
{
    if (o)
        atomic_fetch_sub(&o->upload_bytes, bytes);
}

void owner_has_job(struct owner *o, bool unfinished, uint64_t bytes)
{
    atomic_fetch_add(&o->jobs, unfinished);
    atomic_fetch_add(&o->upload_bytes, bytes);
}

void owner_count_spool(struct owner *o, int64_t more)
{
    if (o)
        atomic_fetch_add(&o->spool_bytes, (uint64_t)more);
}

uint64_t owner_spool(const struct owner *o)
{
    return o ? atomic_load(&o->spool_bytes) : 0;
}

/* ---- frames: a bucket that holds what a second gives, one frame at least --------------------- */

enum err owner_take_frame(struct owner *o)
{
    double rate = o ? atomic_load(&o->frames_per_second) : 0;
    if (rate <= 0)
        return ERR_OK;
    double most = rate > 1 ? rate : 1;
    pthread_mutex_lock(&o->lock);
    uint64_t now = clock_ns();
    double more = o->filled ? (double)(now - o->filled) * 1e-9 * rate : most;
    o->tokens = o->tokens + more < most ? o->tokens + more : most;
    o->filled = now;
    bool there = o->tokens >= 1;
    if (there)
        o->tokens -= 1;
    pthread_mutex_unlock(&o->lock);
    return there ? ERR_OK : err_set(ERR_QUOTA, "this key may send %g frames a second", rate);
}
