#include "engine/resize.h"

#include <math.h>
#include <stdlib.h>

static enum err axis_alloc(struct resize_axis *a, int src, int dst, int taps)
{
    *a = (struct resize_axis){.dst = dst, .src = src, .taps = taps};
    a->index = calloc((size_t)dst, sizeof *a->index);
    a->weight = calloc((size_t)dst * (size_t)taps, sizeof *a->weight);
    if (!a->index || !a->weight) {
        resize_axis_free(a);
        return err_set(ERR_NOMEM, "out of memory");
    }
    return ERR_OK;
}

void resize_axis_free(struct resize_axis *a)
{
    free(a->index);
    free(a->weight);
    *a = (struct resize_axis){0};
}

enum err resize_axis_bilinear(int src, int dst, struct resize_axis *out)
{
    int taps = src == dst || src == 1 ? 1 : 2;
    enum err e = axis_alloc(out, src, dst, taps);
    if (e != ERR_OK)
        return e;
    for (int i = 0; i < dst; i++) {
        if (taps == 1) {
            out->index[i] = src == 1 ? 0 : i;
            out->weight[i] = 1;
            continue;
        }
        double x = (i + 0.5) * src / dst - 0.5;
        x = x < 0 ? 0 : x;
        int x0 = (int)floor(x);
        x0 = x0 > src - 2 ? src - 2 : x0;
        double f = x - x0;
        f = f > 1 ? 1 : f;
        out->index[i] = x0;
        out->weight[2 * i] = (float)(1 - f);
        out->weight[2 * i + 1] = (float)f;
    }
    return ERR_OK;
}

/* First and one past the last source position that destination i of `second` after `first` reads
 * with a weight other than zero. */
static void reach(const struct resize_axis *first, const struct resize_axis *second, int i, int *lo,
                  int *hi)
{
    *lo = first->src;
    *hi = 0;
    for (int t = 0; t < second->taps; t++) {
        int mid = second->index[i] + t;
        if (second->weight[i * second->taps + t] == 0)
            continue;
        for (int s = 0; s < first->taps; s++) {
            int at = first->index[mid] + s;
            if (first->weight[mid * first->taps + s] == 0)
                continue;
            *lo = at < *lo ? at : *lo;
            *hi = at + 1 > *hi ? at + 1 : *hi;
        }
    }
}

enum err resize_axis_compose(const struct resize_axis *first, const struct resize_axis *second,
                             struct resize_axis *out)
{
    int taps = 1, lo, hi;
    for (int i = 0; i < second->dst; i++) {
        reach(first, second, i, &lo, &hi);
        taps = hi - lo > taps ? hi - lo : taps;
    }
    enum err e = axis_alloc(out, first->src, second->dst, taps);
    if (e != ERR_OK)
        return e;
    for (int i = 0; i < second->dst; i++) {
        reach(first, second, i, &lo, &hi);
        lo = lo > first->src - taps ? first->src - taps : lo;
        out->index[i] = lo;
        for (int t = 0; t < second->taps; t++) {
            int mid = second->index[i] + t;
            float a = second->weight[i * second->taps + t];
            for (int s = 0; a != 0 && s < first->taps; s++) {
                float b = first->weight[mid * first->taps + s];
                if (b != 0)
                    out->weight[i * taps + first->index[mid] + s - lo] += a * b;
            }
        }
    }
    return ERR_OK;
}

enum err resize_axis_chain(const int *sizes, int count, struct resize_axis *out)
{
    enum err e = resize_axis_bilinear(sizes[0], sizes[1], out);
    for (int i = 2; e == ERR_OK && i < count; i++) {
        struct resize_axis next = {0}, both = {0};
        e = resize_axis_bilinear(sizes[i - 1], sizes[i], &next);
        if (e == ERR_OK)
            e = resize_axis_compose(out, &next, &both);
        resize_axis_free(&next);
        if (e == ERR_OK) {
            resize_axis_free(out);
            *out = both;
        }
    }
    if (e != ERR_OK)
        resize_axis_free(out);
    return e;
}
