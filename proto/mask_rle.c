/* Run-length masks.
 *
 * `rle` walks the mask row by row and lists (label, length) pairs.
 *
 * `coco_rle` is what the COCO data set's tools exchange: per class a binary mask, walked column by
 * column, as the lengths of runs of zeros and ones in turn, zeros first (so the first length may
 * be 0). Numbers become text: from the fourth length on, the difference to the length two before
 * is written instead (same value's previous run: neighbouring columns cut an object alike). A
 * number is cut in groups of 5 bits, lowest first, each with a sixth bit that says "more follow",
 * and 48 added: characters '0'..'o'. The last group's top bit is the sign of the number. One of
 * the 64 characters is the backslash, which JSON escapes.
 *
 * All classes come from one walk: a run of class L adds two lengths to L's list, the zeros since
 * L's last run and the run itself. Only lists of classes that occur take memory.
 *
 * Decoders treat their input as hostile: sizes are bounded before anything is allocated by them,
 * runs must fill the picture exactly (rle) or stay inside it (coco). */
#include "proto/mask_rle.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* {"frame":7,"time":0.28,"size":[h,w],   with what is known of it */
static enum err open_object(const struct mask *m, struct buf *out)
{
    enum err e = buf_text(out, "{");
    if (!e && m->frame >= 0)
        e = buf_printf(out, "\"frame\":%lld,", (long long)m->frame);
    if (!e && isfinite(m->time))
        e = buf_printf(out, "\"time\":%.6f,", m->time);
    return e ? e : buf_printf(out, "\"size\":[%d,%d],", m->height, m->width);
}

/* ---- rle ----------------------------------------------------------------------------------------
 */

/* Writes a number in decimal; returns its end. */
static uint8_t *put_decimal(uint8_t *p, uint32_t v)
{
    uint8_t digits[10];
    int n = 0;
    do
        digits[n++] = (uint8_t)('0' + v % 10);
    while (v /= 10);
    while (n)
        *p++ = digits[--n];
    return p;
}

enum err mask_rle_encode(const struct mask *m, struct buf *out)
{
    enum { PAIR = 3 + 1 + 10 + 1 }; /* "255,268435456," */
    const uint8_t *p = m->labels, *end = p + (size_t)m->width * (size_t)m->height;
    enum err e = open_object(m, out);
    if (!e)
        e = buf_text(out, "\"runs\":[");
    while (!e && p < end) {
        const uint8_t *start = p, label = *p;
        while (p < end && *p == label)
            p++;
        e = buf_reserve(out, PAIR);
        if (e)
            break;
        uint8_t *w = put_decimal(out->data + out->len, label);
        *w++ = ',';
        w = put_decimal(w, (uint32_t)(p - start));
        *w++ = p < end ? ',' : ']';
        out->len = (size_t)(w - out->data);
    }
    return e ? e : buf_text(out, "}");
}

/* Reads "size":[h,w] and allocates the labels, filled with 255. */
static enum err read_size(const json_t *o, size_t max_pixels, struct mask_labels *out)
{
    const json_t *size = json_object_get(o, "size");
    if (json_array_size(size) != 2)
        return err_set(ERR_FORMAT, "a mask needs \"size\":[height,width]");
    json_int_t h = json_integer_value(json_array_get(size, 0));
    json_int_t w = json_integer_value(json_array_get(size, 1));
    if (h < 1 || w < 1 || h > MASK_MAX_SIDE || w > MASK_MAX_SIDE)
        return err_set(ERR_FORMAT, "a mask's sides are 1 to %d", MASK_MAX_SIDE);
    if ((size_t)h * (size_t)w > max_pixels)
        return err_set(ERR_LIMIT, "a mask of %dx%d pixels", (int)w, (int)h);
    out->labels = malloc((size_t)h * (size_t)w);
    if (!out->labels)
        return err_set(ERR_NOMEM, "no memory for a mask of %dx%d", (int)w, (int)h);
    memset(out->labels, 255, (size_t)h * (size_t)w);
    out->width = (int)w;
    out->height = (int)h;
    return ERR_OK;
}

static enum err read_runs(const json_t *runs, struct mask_labels *out)
{
    size_t n = json_array_size(runs), at = 0;
    size_t pixels = (size_t)out->width * (size_t)out->height;
    if (!json_is_array(runs) || n % 2)
        return err_set(ERR_FORMAT, "\"runs\" is an array of label, length, label, length, ...");
    for (size_t i = 0; i < n; i += 2) {
        const json_t *label = json_array_get(runs, i), *length = json_array_get(runs, i + 1);
        if (!json_is_integer(label) || !json_is_integer(length))
            return err_set(ERR_FORMAT, "run %zu is not two whole numbers", i / 2);
        json_int_t l = json_integer_value(label), len = json_integer_value(length);
        if (l < 0 || l > 255 || len < 1 || (uint64_t)len > pixels - at)
            return err_set(ERR_FORMAT, "run %zu is out of range", i / 2);
        memset(out->labels + at, (int)l, (size_t)len);
        at += (size_t)len;
    }
    if (at != pixels)
        return err_set(ERR_FORMAT, "the runs cover %zu pixels of %zu", at, pixels);
    return ERR_OK;
}

/* Parses the object, reads its size, and has `fill` paint the labels. */
static enum err decode(const char *json, size_t len, size_t max_pixels, const char *key,
                       enum err (*fill)(const json_t *, struct mask_labels *),
                       struct mask_labels *out)
{
    json_error_t why;
    *out = (struct mask_labels){0};
    json_t *o = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    if (!o)
        return err_set(ERR_FORMAT, "not JSON: %s", why.text);
    enum err e = read_size(o, max_pixels, out);
    if (!e)
        e = fill(json_object_get(o, key), out);
    json_decref(o);
    if (e) {
        free(out->labels);
        *out = (struct mask_labels){0};
    }
    return e;
}

enum err mask_rle_decode(const char *json, size_t len, size_t max_pixels, struct mask_labels *out)
{
    return decode(json, len, max_pixels, "runs", read_runs, out);
}

/* ---- coco_rle -----------------------------------------------------------------------------------
 */

/* One class's lengths while it is written: the text, and what the differences need. */
struct counts {
    struct buf text;
    uint32_t end;    /* pixels up to the end of the last run of ones */
    uint32_t n;      /* lengths so far */
    uint32_t two[2]; /* the last two lengths; two[n % 2] is the one two before the next */
};

static enum err put_count(struct counts *c, uint32_t length)
{
    int64_t v = c->n > 2 ? (int64_t)length - c->two[c->n % 2] : (int64_t)length;
    c->two[c->n++ % 2] = length;
    enum err e = buf_reserve(&c->text, 16);
    for (bool more = true; more && !e;) {
        int group = (int)(v & 31);
        v >>= 5; /* arithmetic: keeps the sign */
        more = group & 16 ? v != -1 : v != 0;
        uint8_t character = (uint8_t)((group | (more ? 32 : 0)) + 48);
        if (character == '\\')
            c->text.data[c->text.len++] = '\\';
        c->text.data[c->text.len++] = character;
    }
    return e;
}

/* The labels column by column, in tiles so that both sides stay in cache. malloc'd. */
static uint8_t *transpose(const struct mask *m)
{
    enum { TILE = 64 };
    size_t w = (size_t)m->width, h = (size_t)m->height;
    uint8_t *out = malloc(w * h);
    for (size_t y0 = 0; out && y0 < h; y0 += TILE)
        for (size_t x0 = 0; x0 < w; x0 += TILE)
            for (size_t x = x0; x < w && x < x0 + TILE; x++)
                for (size_t y = y0; y < h && y < y0 + TILE; y++)
                    out[x * h + y] = m->labels[y * w + x];
    return out;
}

static enum err count_runs(const uint8_t *columns, uint32_t pixels, struct counts *c)
{
    enum err e = ERR_OK;
    for (uint32_t at = 0, start = 0; !e && at < pixels; start = at) {
        uint8_t label = columns[at];
        while (at < pixels && columns[at] == label)
            at++;
        struct counts *own = &c[label];
        e = put_count(own, start - own->end);
        if (!e)
            e = put_count(own, at - start);
        own->end = at;
    }
    for (int label = 0; !e && label < 256; label++)
        if (c[label].n > 0 && c[label].end < pixels)
            e = put_count(&c[label], pixels - c[label].end);
    return e;
}

enum err mask_coco_encode(const struct mask *m, struct buf *out)
{
    uint8_t *columns = NULL;
    bool first = true;
    enum err e = ERR_OK;
    struct counts *c = calloc(256, sizeof *c);
    if (c)
        columns = transpose(m);
    if (!columns) {
        e = err_set(ERR_NOMEM, "no memory for a mask of %dx%d", m->width, m->height);
        goto done;
    }
    e = count_runs(columns, (uint32_t)m->width * (uint32_t)m->height, c);
    if (!e)
        e = open_object(m, out);
    if (!e)
        e = buf_text(out, "\"segments\":[");
    for (int label = 0; !e && label < 256; label++) {
        if (c[label].n == 0)
            continue;
        e = buf_printf(out, "%s{\"category_id\":%d,\"counts\":\"", first ? "" : ",", label);
        first = false;
        if (!e)
            e = buf_append(out, c[label].text.data, c[label].text.len);
        if (!e)
            e = buf_text(out, "\"}");
    }
    if (!e)
        e = buf_text(out, "]}");
done:
    for (int label = 0; c && label < 256; label++)
        buf_free(&c[label].text);
    free(c);
    free(columns);
    return e;
}

/* Reads one number at *at. False when the text ends inside it, has a foreign character, or the
 * number needs more than 35 bits (no length does). */
static bool get_count(const char *text, size_t len, size_t *at, int64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 35; shift += 5) {
        if (*at >= len || text[*at] < 48 || text[*at] > 111)
            return false;
        unsigned group = (unsigned)(text[(*at)++] - 48);
        v |= (uint64_t)(group & 31) << shift;
        if (!(group & 32)) {
            bool negative = group & 16;
            *out = negative ? (int64_t)(v | ~(uint64_t)0 << (shift + 5)) : (int64_t)v;
            return true;
        }
    }
    return false;
}

/* Paints pixels from..to of the column-major walk; false where one has a label already. */
static bool paint(struct mask_labels *m, size_t from, size_t to, int label)
{
    size_t w = (size_t)m->width, h = (size_t)m->height;
    for (size_t i = from; i < to; i++) {
        uint8_t *pixel = &m->labels[i % h * w + i / h];
        if (*pixel != 255)
            return false;
        *pixel = (uint8_t)label;
    }
    return true;
}

static enum err read_segment(const json_t *segment, struct mask_labels *out)
{
    const json_t *id = json_object_get(segment, "category_id");
    const json_t *counts = json_object_get(segment, "counts");
    if (!json_is_integer(id) || !json_is_string(counts))
        return err_set(ERR_FORMAT, "a segment needs \"category_id\" and \"counts\"");
    json_int_t label = json_integer_value(id);
    if (label < 0 || label > 254)
        return err_set(ERR_FORMAT, "a category_id is 0 to 254");
    const char *text = json_string_value(counts);
    size_t len = json_string_length(counts), at = 0, n = 0, pixel = 0;
    size_t pixels = (size_t)out->width * (size_t)out->height;
    for (int64_t two[2] = {0}, v; at < len; n++) {
        if (!get_count(text, len, &at, &v))
            return err_set(ERR_FORMAT, "category %d: bad counts at %zu", (int)label, at);
        if (n > 2)
            v += two[n % 2];
        if (v < 0 || (uint64_t)v > pixels - pixel)
            return err_set(ERR_FORMAT, "category %d: run %zu leaves the picture", (int)label, n);
        two[n % 2] = v;
        if (n % 2 && !paint(out, pixel, pixel + (size_t)v, (int)label))
            return err_set(ERR_FORMAT, "category %d overlaps another", (int)label);
        pixel += (size_t)v;
    }
    if (pixel != pixels)
        return err_set(ERR_FORMAT, "category %d covers %zu pixels of %zu", (int)label, pixel,
                       pixels);
    return ERR_OK;
}

static enum err read_segments(const json_t *segments, struct mask_labels *out)
{
    if (!json_is_array(segments))
        return err_set(ERR_FORMAT, "a mask needs \"segments\"");
    for (size_t i = 0; i < json_array_size(segments); i++) {
        enum err e = read_segment(json_array_get(segments, i), out);
        if (e)
            return e;
    }
    return ERR_OK;
}

enum err mask_coco_decode(const char *json, size_t len, size_t max_pixels, struct mask_labels *out)
{
    return decode(json, len, max_pixels, "segments", read_segments, out);
}
