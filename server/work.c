#include "server/work.h"

#include "server/config.h"
#include "server/decode.h"
#include "server/decode_packet.h"
#include "server/metrics.h"
#include "server/sched.h"

#include <math.h>
#include <stdlib.h>

/* ---- decoding -----------------------------------------------------------------------------------
 */

static void deliver_error(const struct work *w, struct item *item, enum err e)
{
    item_fail(item, e);
    item_deliver(item, w->metrics);
}

/* A decoded frame, or the reason why not, on its way. */
static void pass_on(const struct work *w, struct item *item, enum err e)
{
    item->decoded = clock_ns();
    if (!item->empty)
        metric_observe(w->metrics, METRIC_SECONDS_DECODE,
                       (double)(item->decoded - item->received) * 1e-9);
    if (e)
        deliver_error(w, item, e);
    else if (item->empty || item->dropped)
        item_deliver(item, w->metrics);
    else
        sched_submit(w->sched, item);
}

static void on_packet(void *work, struct item *item, enum err e)
{
    pass_on(work, item, e);
}

static struct packet_way packet_way(const struct work *w, const struct sandbox_wait *wait)
{
    return (struct packet_way){w->sandbox, wait, w->config->max_pixels, on_packet, (void *)w};
}

void work_decode(const struct work *w, struct image_decoder *images,
                 const struct sandbox_wait *wait, struct item *item)
{
    const struct packet_way way = packet_way(w, wait);
    const struct session *s = item->session;
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET)
        decode_packet(item, &way);
    else if (s && atomic_load(&s->dead))
        pass_on(w, item, err_set(ERR_NOT_FOUND, "stream '%s' was deleted", s->id));
    else if (item->kind == ITEM_DECODED)
        pass_on(w, item, ERR_OK);
    else
        pass_on(w, item, image_decode(images, item, w->config->max_pixels));
}

/* ---- encoding -----------------------------------------------------------------------------------
 */

static enum err encode_mask(struct item *item)
{
    const struct arch *a = &item->session->params.model->model->arch;
    bool timed = item->pts != ITEM_NO_PTS;
    if (item->format == MASK_OVERLAY && item->pixel_format.layout != PIXELS_RGB24)
        return err_set(ERR_INTERNAL, "an overlay of pixels that are not RGB24");
    const struct mask m = {.width = item->width,
                           .height = item->height,
                           .labels = item->labels,
                           .palette = a->palette,
                           .colours = a->classes,
                           .rgb = item->pixels,
                           .frame = item->seq,
                           .time = timed ? (double)item->pts * 1e-6 : NAN};
    return mask_encode(item->format, &m, &item->output);
}

void work_encode(const struct work *w, struct item *item)
{
    enum err e = item->silent ? ERR_OK : encode_mask(item);
    if (item->session->kind != SESSION_UPLOAD) { /* which may want them for a video */
        free(item->pixels);
        free(item->labels);
        item->pixels = item->labels = NULL;
    }
    item->encoded = clock_ns();
    metric_observe(w->metrics, METRIC_SECONDS_ENCODE,
                   (double)(item->encoded - item->labelled) * 1e-9);
    if (e)
        deliver_error(w, item, e);
    else
        item_deliver(item, w->metrics);
}

/* ---- ending -------------------------------------------------------------------------------------
 */

static bool is_over(void *ctx)
{
    (void)ctx;
    return true;
}

void work_end(const struct work *w, struct item *item)
{
    const struct sandbox_wait hurry = {.cancelled = is_over};
    const struct packet_way way = packet_way(w, &hurry);
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET && item->input.len == 0)
        decode_packet(item, &way);
    else
        deliver_error(w, item, err_set(ERR_CANCELLED, "the server is stopping"));
}
