#include "clients/c/cli/feed.h"

#include "media/chunks.h"

#include "base/try.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT_BYTES = 64 << 20 };
static const int64_t max_pixels = 1 << 26;

struct kept {
    struct chunk is; /* data: ours */
    uint8_t *data;
};

struct feed {
    struct decoder *input;
    struct frame frame;    /* the picture that is sent */
    int64_t offset;        /* of numbers, to those of the input */
    int64_t first;         /* the number of the first frame that the state lacks */
    int64_t answered;      /* and of the last that was answered; -1: none */
    struct chunks *chunks; /* NULL: pictures alone */
    struct kept *kept;
    size_t count, room, bytes;
    size_t at; /* in `kept`: the next to be sent, or decoded; count: to be read */
    struct packet_decoder *local; /* after a loss; else NULL */
    bool fed, emptied; /* it has had a packet; no more are to come: its last pictures come out */
    bool waits;        /* for a key frame that a decoder can begin with */
};

/* ---- opening ------------------------------------------------------------------------------------
 */

enum err feed_open(struct decoder *d, enum feed_kind kind, struct feed **out)
{
    const char *why = NULL;
    struct feed *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f)
        return err_set(ERR_NOMEM, "no memory");
    f->input = d;
    f->answered = -1;
    enum err e = kind == FEED_PICTURES ? ERR_OK : chunks_open(d, &f->chunks, &why);
    if (!e && kind == FEED_PACKETS && why)
        e = err_set(ERR_UNSUPPORTED, "it cannot be sent as packets: %s", why);
    if (e)
        feed_close(f);
    else
        *out = f;
    return e;
}

static void drop_first(struct feed *f, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        f->bytes -= f->kept[i].is.len;
        free(f->kept[i].data);
    }
    f->count -= count;
    f->at -= count;
    if (f->count > 0)
        memmove(f->kept, f->kept + count, f->count * sizeof *f->kept);
}

static void close_local(struct feed *f)
{
    packet_decoder_close(f->local, NULL);
    f->local = NULL;
    f->fed = f->emptied = false;
}

void feed_close(struct feed *f)
{
    if (!f)
        return;
    f->at = f->count;
    drop_first(f, f->count);
    free(f->kept);
    close_local(f);
    chunks_close(f->chunks);
    frame_free(&f->frame);
    free(f);
}

bool feed_packets(const struct feed *f)
{
    return f->chunks != NULL;
}

/* ---- what is kept -------------------------------------------------------------------------------
 */

static enum err keep(struct feed *f, const struct chunk *c)
{
    if (f->count == f->room) {
        size_t room = f->room ? 2 * f->room : 64;
        struct kept *more = realloc(f->kept, room * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "no memory for packets");
        f->kept = more;
        f->room = room;
    }
    struct kept k = {*c, malloc(c->len)};
    if (!k.data)
        return err_set(ERR_NOMEM, "no memory for packets");
    memcpy(k.data, c->data, c->len);
    k.is.data = k.data;
    k.is.number += f->offset;
    f->kept[f->count++] = k;
    f->bytes += c->len;
    return ERR_OK;
}

/* kept[at], read where it is not there yet; NULL at the end. */
static enum err current(struct feed *f, const struct kept **out)
{
    struct chunk c;
    bool end = false;
    *out = NULL;
    if (f->at == f->count) {
        TRY(chunks_next(f->chunks, &c, &end));
        if (end)
            return ERR_OK;
        TRY(keep(f, &c));
    }
    *out = &f->kept[f->at];
    return ERR_OK;
}

void feed_settle(struct feed *f, int64_t answered, int64_t stored)
{
    f->answered = answered > f->answered ? answered : f->answered;
    int64_t safe = stored < f->answered ? stored : f->answered;
    size_t drop = 0;
    for (size_t i = 0; i < f->at; i++)
        if (f->kept[i].is.begins && f->kept[i].is.number <= safe + 1)
            drop = i;
    for (size_t bytes = f->bytes; drop < f->at && bytes > KEPT_BYTES; drop++)
        bytes -= f->kept[drop].is.len;
    drop_first(f, drop);
}

/* Where decoding begins for what is after frame `last`: at a packet that begins. kept[*lacks] is
 * the first that the state lacks. false: there is none. */
static bool find_begin(const struct feed *f, int64_t last, size_t *lacks, size_t *begin)
{
    *lacks = 0;
    while (*lacks < f->count && f->kept[*lacks].is.number <= last)
        ++*lacks;
    for (size_t i = *lacks + 1; i-- > 0;) {
        *begin = i;
        if (i < f->count && f->kept[i].is.begins)
            return true;
    }
    return false;
}

int64_t feed_rewind(struct feed *f, int64_t last)
{
    size_t lacks, begin;
    f->first = last + 1;
    close_local(f);
    bool there = find_begin(f, last, &lacks, &begin);
    enum packet_codec codec = there ? f->kept[begin].is.codec : CHUNK_JPEG;
    f->at = lacks;
    f->waits = !there;
    if (!there || begin == lacks || codec == CHUNK_JPEG)
        return there && lacks < f->count ? f->kept[lacks].is.number - f->first : 0;
    f->waits = packet_decoder_open(codec, max_pixels, &f->local) != ERR_OK;
    if (!f->waits)
        f->at = begin;
    return 0;
}

enum err feed_begin(struct feed *f, int64_t last, bool resume)
{
    int64_t number = -1;
    if (!f->chunks || !resume) {
        f->offset = resume ? 0 : last + 1;
        f->first = resume ? last + 1 : 0;
        f->answered = last;
        return ERR_OK;
    }
    while (number <= last) {
        const struct kept *k;
        TRY(current(f, &k));
        if (!k)
            break;
        number = k->is.number;
        f->at++;
        feed_settle(f, last, last);
    }
    feed_rewind(f, last);
    return ERR_OK;
}

/* ---- what is sent -------------------------------------------------------------------------------
 */

static void picture(const struct feed *f, int64_t pts, struct tv3s_frame *out)
{
    *out = (struct tv3s_frame){
        .kind = TV3S_RGB24,
        .width = f->frame.width,
        .height = f->frame.height,
        .pts = pts,
        .data = f->frame.pixels,
        .len = (size_t)f->frame.width * (size_t)f->frame.height * 3,
    };
}

static void number_it(const struct feed *f, int64_t number, struct tv3s_frame *out)
{
    out->numbered = true;
    out->seq = number;
    out->silent = number <= f->answered;
}

static enum err next_picture(struct feed *f, struct tv3s_frame *out, bool *end)
{
    do
        TRY(decoder_next(f->input, &f->frame, end));
    while (!*end && f->frame.number < f->first);
    if (!*end)
        picture(f, (int64_t)(f->frame.time * 1e6), out);
    return ERR_OK;
}

/* A packet's number as the decoder's tag, which is not NULL. */
static void *tag_of(int64_t number)
{
    return (void *)(intptr_t)(number + 1);
}

/* What the decoder here has to send; false: nothing, for now. */
static bool take_picture(struct feed *f, struct tv3s_frame *out)
{
    for (;;) {
        void *tag;
        enum err e;
        frame_free(&f->frame);
        enum packet_result r = packet_decoder_next(f->local, &f->frame, &tag, &e);
        if (r == PACKET_MORE)
            return false;
        int64_t number = (int64_t)(intptr_t)tag - 1;
        if (r != PACKET_FRAME || number < f->first)
            continue;
        int64_t pts = CHUNK_NO_PTS;
        for (size_t i = 0; i < f->count; i++)
            if (f->kept[i].is.number == number)
                pts = f->kept[i].is.pts;
        picture(f, pts, out);
        number_it(f, number, out);
        return true;
    }
}

/* The next packet into the decoder here; where the server's can begin again, or at the end, the
 * last pictures come out. A packet that it refuses, the server's would too. */
static enum err feed_local(struct feed *f)
{
    const struct kept *k;
    TRY(current(f, &k));
    if (k && !(f->fed && k->is.begins)) {
        (void)packet_decoder_send(f->local, k->data, k->is.len, tag_of(k->is.number));
        f->fed = true;
        f->at++;
        return ERR_OK;
    }
    f->emptied = true;
    return packet_decoder_send(f->local, NULL, 0, tag_of(-2));
}

static enum err next_packet(struct feed *f, struct tv3s_frame *out, bool *end)
{
    const struct kept *k;
    do {
        TRY(current(f, &k));
        f->at += k != NULL;
    } while (k && f->waits && !k->is.begins);
    f->waits = false;
    *end = !k;
    if (k)
        *out = (struct tv3s_frame){
            .kind = k->is.codec ? TV3S_PACKET : TV3S_IMAGE,
            .codec = (enum tv3s_codec)k->is.codec,
            .key_frame = k->is.key_frame,
            .pts = k->is.pts,
            .data = k->data,
            .len = k->is.len,
        };
    if (k)
        number_it(f, k->is.number, out);
    return ERR_OK;
}

enum err feed_next(struct feed *f, struct tv3s_frame *out, bool *end)
{
    *end = false;
    if (!f->chunks)
        return next_picture(f, out, end);
    while (f->local) {
        if (take_picture(f, out))
            return ERR_OK;
        if (f->emptied)
            close_local(f);
        else
            TRY(feed_local(f));
    }
    return next_packet(f, out, end);
}
