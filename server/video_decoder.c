#include "server/video_decoder.h"

#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/models.h"

#include "sandbox/device_trial.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { FAILURES_MAX = 3 }; /* in a row: then it is not the videos */

/* The decoder of one device. */
struct place {
    struct metrics *metrics;
    const char *name; /* the models' */
    int index;        /* CUDA's number */
    atomic_bool used;
    atomic_int failures; /* since a video went well */
};

struct video_decoder {
    struct sandbox *sandbox;
    pthread_t thread;
    bool started;
    atomic_bool closing;
    int count;
    struct place place[];
};

enum err video_decoder_check(const struct config *c)
{
    return strcmp(c->video_decoder, "auto") == 0 || strcmp(c->video_decoder, "cpu") == 0
               ? ERR_OK
               : err_set(ERR_ARG, "video_decoder '%.40s': auto or cpu is wanted", c->video_decoder);
}

/* ---- its life -----------------------------------------------------------------------------------
 */

static void use(struct place *p)
{
    log_event(LOG_INFO, "video_decoder", "on=nvdec device=%s", p->name);
    atomic_store(&p->used, true);
}

static void pass_over(const char *device, const char *why)
{
    log_event(LOG_INFO, "video_decoder", "on=cpu device=%s why=%s", device, log_text(why));
}

/* video_device.went */
static void went(void *place, const char *who, const char *why)
{
    struct place *p = place;
    if (!why) {
        atomic_store(&p->failures, 0);
        return;
    }
    metric_add(p->metrics, METRIC_VIDEO_DECODER_FAILED, 1);
    log_event(LOG_WARNING, "video_decoder_failed", "%s device=%s error=%s", who, p->name,
              log_text(why));
    if (atomic_fetch_add(&p->failures, 1) + 1 == FAILURES_MAX)
        if (atomic_exchange(&p->used, false))
            pass_over(p->name, "it failed for three videos in a row");
}

/* ---- the trials ---------------------------------------------------------------------------------
 */

static bool closing(void *decoder)
{
    struct video_decoder *d = decoder;
    return atomic_load(&d->closing);
}

static void *try_all(void *decoder)
{
    struct video_decoder *d = decoder;
    const struct sandbox_wait wait = {.cancelled = closing, .ctx = d};
    for (int i = 0; i < d->count; i++) {
        enum err e = device_trial(d->sandbox, d->place[i].index, &wait);
        if (e == ERR_CANCELLED)
            break;
        if (e)
            pass_over(d->place[i].name, err_text());
        else
            use(&d->place[i]);
    }
    return NULL;
}

/* Why none is tried; NULL: they are. */
static const char *forbidden(const struct config *c, const struct sandbox *s)
{
    if (strcmp(c->video_decoder, "auto") != 0)
        return "the setting video_decoder";
    return s ? NULL : "the sandbox is off";
}

enum err video_decoder_open(const struct config *c, struct metrics *m, const struct models *models,
                            struct sandbox *s, struct video_decoder **out)
{
    const char *no = forbidden(c, s);
    int count = models_device_index(models, 0) < 0 ? 0 : models_devices(models);
    struct video_decoder *d = *out = calloc(1, sizeof *d + (size_t)count * sizeof d->place[0]);
    if (!d)
        return err_set(ERR_NOMEM, "no memory for the decoders of devices");
    d->sandbox = s;
    d->count = count;
    for (int i = 0; i < count; i++) {
        d->place[i].metrics = m;
        d->place[i].name = models_device(models, i);
        d->place[i].index = models_device_index(models, i);
        if (no)
            pass_over(d->place[i].name, no);
    }
    if (no || count == 0)
        return ERR_OK;
    d->started = pthread_create(&d->thread, NULL, try_all, d) == 0;
    if (d->started)
        return ERR_OK;
    video_decoder_close(d);
    *out = NULL;
    return err_set(ERR_NOMEM, "no thread for the trial of a device's decoder");
}

void video_decoder_close(struct video_decoder *d)
{
    if (!d)
        return;
    atomic_store(&d->closing, true);
    if (d->started)
        pthread_join(d->thread, NULL);
    free(d);
}

bool video_decoder_use(struct video_decoder *d, int device, struct video_device *out)
{
    if (device >= d->count || !atomic_load(&d->place[device].used))
        return false;
    out->index = d->place[device].index;
    out->went = went;
    out->ctx = &d->place[device];
    return true;
}
