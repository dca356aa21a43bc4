#include "server/item.h"

#include "server/metrics.h"
#include "server/session.h"

#include "sandbox/device_pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct item *item_new(struct session *session, enum item_kind kind)
{
    struct item *item = calloc(1, sizeof *item);
    if (!item)
        return NULL;
    item->kind = kind;
    item->pts = ITEM_NO_PTS;
    item->received = clock_ns();
    if (session) {
        item->session = session_ref(session);
        item->format = session->params.format;
        atomic_fetch_add(&session->in_flight, 1);
        atomic_store(&session->touched, item->received);
    }
    return item;
}

void item_free(struct item *item)
{
    if (!item)
        return;
    if (item->session) {
        atomic_store(&item->session->touched, clock_ns());
        atomic_fetch_sub(&item->session->in_flight, 1);
        session_unref(item->session);
    }
    buf_free(&item->input);
    buf_free(&item->output);
    free(item->pixels);
    device_picture_release(item->picture);
    free(item->labels);
    free(item);
}

enum err item_fail(struct item *item, enum err e)
{
    item->error = e;
    snprintf(item->error_text, sizeof item->error_text, "%s", err_text());
    return e;
}

static enum metric_id outcome(const struct item *item)
{
    enum session_kind kind = item->session ? item->session->kind : SESSION_SINGLE;
    if (item->dropped && kind == SESSION_LIVE)
        return METRIC_FRAMES_LIVE_DROPPED;
    bool ok = item->error == ERR_OK;
    switch (kind) {
    case SESSION_LIVE:
        return ok ? METRIC_FRAMES_LIVE_OK : METRIC_FRAMES_LIVE_FAILED;
    case SESSION_UPLOAD:
        return ok ? METRIC_FRAMES_UPLOAD_OK : METRIC_FRAMES_UPLOAD_FAILED;
    case SESSION_SINGLE:
        break;
    }
    return ok ? METRIC_FRAMES_SINGLE_OK : METRIC_FRAMES_SINGLE_FAILED;
}

void item_deliver(struct item *item, struct metrics *m)
{
    if (!item->empty)
        metric_add(m, outcome(item), 1);
    if (item->error == ERR_BUSY)
        metric_add(m, METRIC_DROPPED_OVERLOAD, 1);
    item->deliver(item);
}
