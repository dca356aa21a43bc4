/* What a decoder gives of a file, for tests: "frames FILE [device] [rgb]". Of each frame a line
 * with its size, format, time and a number made of its pixels; of an error that ends it and of the
 * whole a line each. With "device" the pictures may come from there. */
#include "media/decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct copy {
    uint8_t *pixels;
    size_t bytes;
};

/* The device's memory is the host's (driver.h). A picture of more than a MiB has no room. */
static enum err take(void *ctx, const struct device_nv12 *p, struct frame *f)
{
    struct copy *c = ctx;
    size_t rows = pixels_rows(PIXELS_NV12, p->height), row = pixels_row(PIXELS_NV12, p->width);
    if (rows * row > 1 << 20)
        return err_set(ERR_LIMIT, "no room");
    if (f->width != p->width || f->height != p->height || f->format.layout != PIXELS_NV12)
        abort();
    free(c->pixels);
    c->pixels = malloc(c->bytes = rows * row);
    for (size_t y = 0; y < rows; y++) {
        size_t chroma = y >= (size_t)p->height, from = chroma ? y - (size_t)p->height : y;
        memcpy(c->pixels + y * row, p->plane[chroma] + from * p->pitch[chroma], row);
    }
    f->device_pixels = c->pixels;
    return ERR_OK;
}

static void report(void *ctx, const char *text)
{
    (void)ctx;
    printf("warning: %s\n", text);
}

static void print(const struct decoder *d, const struct frame *f)
{
    const uint8_t *p = f->device_pixels ? f->device_pixels : f->pixels;
    size_t bytes =
        pixels_row(f->format.layout, f->width) * pixels_rows(f->format.layout, f->height);
    unsigned long long sum = 14695981039346656037ULL; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        sum = (sum ^ p[i]) * 1099511628211ULL;
    printf("frame %s %s %lld %dx%d %d%d%d %016llx\n", decoder_place(d, NULL),
           f->device_pixels ? "there" : "here", (long long)f->pts, f->width, f->height,
           (int)f->format.layout, (int)f->format.matrix, (int)f->format.full, sum);
}

int main(int argc, char **argv)
{
    struct copy copy = {0};
    struct decode_device device = {.take = take, .ctx = &copy, .context = &copy};
    struct decode_options o = {.local_file_only = true, .threads = 2, .report = report};
    struct frame f = {.takes_nv12 = true};
    struct decoder *d = NULL;
    bool end = false;
    const char *why = NULL;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "device") == 0)
            o.device = &device;
        f.takes_nv12 &= strcmp(argv[i], "rgb") != 0;
        o.local_file_only &= strcmp(argv[i], "any") != 0;
    }
    enum err e = argc > 1 ? decoder_open(argv[1], &o, &d) : ERR_ARG;
    while (!e && !(e = decoder_next(d, &f, &end)) && !end)
        print(d, &f);
    if (e)
        printf("error: %s: %s\n", err_type(e), err_text());
    if (d)
        decoder_place(d, &why);
    printf("%lld corrupt, %s\n", (long long)(d ? decoder_corrupt(d) : 0), why ? why : "");
    frame_free(&f);
    decoder_close(d);
    free(copy.pixels);
    return e != ERR_OK;
}
