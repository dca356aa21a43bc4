#include "sandbox/device_trial.h"

#include "sandbox/device_clip.h"
#include "sandbox/video.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLIP_BYTES = DEVICE_CLIP_WIDTH * DEVICE_CLIP_HEIGHT * 3 / 2 };

/* What was not as it should be. */
struct trial {
    bool (*cancelled)(void *ctx);
    void *ctx;
    char damage[256]; /* "": none */
};

static bool cancelled(void *trial)
{
    const struct trial *t = trial;
    return t->cancelled && t->cancelled(t->ctx);
}

static void report(void *trial, const char *text)
{
    struct trial *t = trial;
    snprintf(t->damage, sizeof t->damage, "%s", text);
}

/* Of the device, which have to be there, or of the CPU. */
static enum err pixels_of(struct video *v, const struct frame *f, bool there, uint8_t *to)
{
    const char *why;
    if (f->format.layout != PIXELS_NV12 || f->width != DEVICE_CLIP_WIDTH ||
        f->height != DEVICE_CLIP_HEIGHT)
        return err_set(ERR_DEVICE, "a picture of the clip is of another kind");
    if (!there) {
        memcpy(to, f->pixels, CLIP_BYTES);
        return ERR_OK;
    }
    video_place(v, &why);
    struct device_picture *picture = video_take_picture(v);
    if (!picture)
        return err_set(ERR_UNSUPPORTED, "%s", why ? why : "pictures do not stay on the device");
    enum err e = device_picture_read(picture, to, CLIP_BYTES);
    device_picture_release(picture);
    return e;
}

/* A frame of each, or the end of both. */
static enum err compare(struct video *there, struct video *here, bool *end)
{
    static const char wrong[] = "it decodes otherwise than the CPU";
    uint8_t pixels[2][CLIP_BYTES];
    struct frame f = {0}, g = {0};
    bool ended = false;
    enum err e = video_next(there, &f, end);
    if (!e)
        e = video_next(here, &g, &ended);
    if (!e && *end != ended)
        e = err_set(ERR_DEVICE, "%s: it gives more frames, or fewer", wrong);
    if (!e && !*end)
        e = pixels_of(there, &f, true, pixels[0]);
    if (!e && !*end)
        e = pixels_of(here, &g, false, pixels[1]);
    if (!e && !*end &&
        (f.pts != g.pts || f.format.matrix != g.format.matrix || f.format.full != g.format.full ||
         memcmp(pixels[0], pixels[1], CLIP_BYTES) != 0))
        e = err_set(ERR_DEVICE, "%s: frame %lld differs", wrong, (long long)f.number);
    frame_free(&f);
    frame_free(&g);
    return e;
}

static enum err compare_all(struct video *there, struct video *here, const struct trial *t)
{
    bool end = false;
    int frames = 0;
    for (;; frames++) {
        TRY(compare(there, here, &end));
        if (end)
            break;
    }
    if (frames != DEVICE_CLIP_FRAMES)
        return err_set(ERR_DEVICE, "of %d frames it gives %d", (int)DEVICE_CLIP_FRAMES, frames);
    return t->damage[0] ? err_set(ERR_DEVICE, "it reports damage: %s", t->damage) : ERR_OK;
}

enum err device_trial(struct sandbox *s, int index, const struct sandbox_wait *wait)
{
    struct trial t = {.cancelled = wait ? wait->cancelled : NULL, .ctx = wait ? wait->ctx : NULL};
    const struct decode_options o = {.cancelled = cancelled, .report = report, .ctx = &t};
    const struct video_device device = {.index = index, .pictures = 1};
    struct video *there = NULL, *here = NULL;
    int clip = device_clip_open();
    if (clip < 0)
        return err_set(ERR_NOMEM, "no memory for a clip");
    enum err e = video_open_file(s, clip, &o, true, &device, "decoder=trial", &there);
    if (!e)
        e = video_open_file(s, clip, &o, true, NULL, "decoder=trial", &here);
    if (!e)
        e = compare_all(there, here, &t);
    char text[512];
    snprintf(text, sizeof text, "%s", e ? err_text() : "");
    video_close(there);
    video_close(here);
    close(clip);
    return e ? err_set(e, "%s", text) : ERR_OK;
}
