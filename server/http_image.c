/* One image in, one mask out: a frame on its way through the workers and the engine, and back.
 *
 * The request is suspended before the frame leaves this thread and resumed by whoever ends the
 * frame's way; in between it belongs to the frame. */
#include "server/http.h"

#include "server/config.h"
#include "server/workers.h"

#include <stdlib.h>
#include <string.h>

static uint64_t microseconds(uint64_t from, uint64_t to)
{
    return from && to > from ? (to - from) / 1000 : 0;
}

static enum err reply_mask(struct request *r)
{
    struct item *item = r->item;
    if (item->error)
        return err_set(item->error, "%s", item->error_text);
    if (item->dropped || item->empty)
        return err_set(ERR_BUSY, "the frame was dropped");
    struct MHD_Response *answer =
        reply_bytes(mask_format_mime(item->format), item->output.data, item->output.len);
    item->output = (struct buf){0};
    if (gzip_pays(item->format))
        gzip_headers(&answer, r->zipped);
    reply_header(&answer, "X-Tv3s-Seq", "%lld", item->seq < 0 ? 0ll : (long long)item->seq);
    reply_header(&answer, "X-Tv3s-Size", "%dx%d", item->width, item->height);
    reply_header(&answer, "X-Tv3s-Queue-Us", "%llu",
                 (unsigned long long)microseconds(item->decoded, item->batched));
    reply_header(&answer, "X-Tv3s-Compute-Us", "%llu",
                 (unsigned long long)microseconds(item->batched, item->labelled));
    if (item->restarted)
        reply_header(&answer, "X-Tv3s-Restarted", "1");
    reply_send(r, 200, answer);
    return ERR_OK;
}

/* A worker, the engine thread, or this one. Compresses here: masks may be large, and the network
 * thread is not to wait. */
static void on_delivered(struct item *item)
{
    struct request *r = item->owner;
    void *data = item->output.data;
    r->item = item;
    r->zipped = !item->error && r->gzip && gzip_pays(item->format) &&
                gzip_in_place(&data, &item->output.len);
    item->output.data = data;
    request_resume(r);
}

enum err image_segment(struct request *r)
{
    enum err e = owner_take_frame(r->owner);
    if (e)
        return e;
    struct item *item = item_new(r->session, ITEM_IMAGE);
    if (!item)
        return err_set(ERR_NOMEM, "no memory for a frame");
    item->input = r->input;
    r->input = (struct buf){0};
    item->seq = r->session->kind == SESSION_LIVE ? session_number(r->session, -1, false) : -1;
    item->deliver = on_delivered;
    item->owner = r;
    request_wait(r, reply_mask);
    e = workers_decode(r->server->workers, item);
    if (e) {
        item_fail(item, e);
        item_deliver(item, r->server->metrics);
    }
    return ERR_OK;
}

enum err image_begin(struct request *r)
{
    r->limit = r->server->config->max_image;
    return ERR_OK;
}

/* ---- POST /v1/segment ---------------------------------------------------------------------------
 */

enum err segment_begin(struct request *r)
{
    enum err e = request_params(r);
    r->params.stream.mode = MODE_FRAME;
    return e ? e : image_begin(r);
}

enum err segment_answer(struct request *r)
{
    if (r->input.len == 0)
        return err_set(ERR_ARG, "the image is empty");
    enum err e = session_new(r->server->sessions, SESSION_SINGLE, r->id, &r->params, &r->session);
    return e ? e : image_segment(r);
}
