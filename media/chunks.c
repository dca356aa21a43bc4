/* Packets of a video, undecoded.
 *
 * The first ones are decoded here as the server will decode them, with nothing that the container
 * says beside: if the first picture is not that which the decoder of the whole file would give, the
 * packets go back to be read by that (source_unread).
 *
 * Numbers: where pictures are shown in another order than they are decoded in, a packet waits until
 * all that is shown before it has been read. That is so when one is read that is decoded no earlier
 * than this is shown: later ones are shown later than they are decoded. Time stamps that jump back
 * begin another count, behind all that came before. */
#include "media/chunks.h"

#include "media/source.h"

#include "base/try.h"

#include <libavcodec/bsf.h>
#include <stdlib.h>

enum { PROBE_MAX = 64, QUEUE_MAX = 2 * PROBE_MAX, RECENT = 32 };

struct chunks {
    struct source *source;
    AVRational unit; /* of time stamps */
    enum packet_codec codec;
    bool reorders, ended;
    AVBSFContext *filter; /* or NULL */
    AVPacket *queue[QUEUE_MAX];
    int queued;
    AVPacket *given;        /* what the caller has */
    AVPacket *jump;         /* read after the queue, its time stamps before it; or NULL */
    int64_t newest;         /* time of decoding of the last that was read, where that is known */
    int64_t base, out;      /* packets given before the last jump; and since */
    int64_t recent[RECENT]; /* times of showing of the last given, by out % RECENT */
    int64_t corrupt;
};

static const struct {
    enum AVCodecID id;
    enum packet_codec codec;
    const char *filter;
} known[] = {
    {AV_CODEC_ID_H264, PACKET_H264, "h264_mp4toannexb,dump_extra"},
    {AV_CODEC_ID_HEVC, PACKET_HEVC, "hevc_mp4toannexb,dump_extra"},
    {AV_CODEC_ID_VP8, PACKET_VP8, NULL},
    {AV_CODEC_ID_VP9, PACKET_VP9, NULL},
    {AV_CODEC_ID_AV1, PACKET_AV1, NULL},
    {AV_CODEC_ID_MJPEG, CHUNK_JPEG, "mjpeg2jpeg"},
};

/* ---- reading ------------------------------------------------------------------------------------
 */

/* As the protocol has it. */
static enum err filter(struct chunks *c, AVPacket *p)
{
    if (!c->filter)
        return ERR_OK;
    int r = av_bsf_send_packet(c->filter, p);
    if (r >= 0)
        r = av_bsf_receive_packet(c->filter, p);
    return r < 0 ? source_error(r, "a packet") : ERR_OK;
}

static enum err check(const struct chunks *c, const AVPacket *p)
{
    if (p->flags & AV_PKT_FLAG_DISCARD)
        return err_set(ERR_FORMAT, "a packet whose picture is not shown");
    if (c->reorders && p->pts == AV_NOPTS_VALUE)
        return err_set(ERR_FORMAT, "a packet without a time stamp");
    return ERR_OK;
}

/* Into the queue, filtered. Takes the packet. */
static enum err enqueue(struct chunks *c, AVPacket *p)
{
    enum err e = check(c, p);
    if (!e)
        e = filter(c, p);
    if (e) {
        av_packet_free(&p);
        return e;
    }
    bool timed = p->dts != AV_NOPTS_VALUE; /* not so the first of some containers */
    bool jumps = c->reorders && timed && p->dts < c->newest;
    c->newest = timed ? p->dts : c->newest;
    if (jumps)
        c->jump = p;
    else
        c->queue[c->queued++] = p;
    return ERR_OK;
}

static enum err read_packet(struct chunks *c, AVPacket **out)
{
    AVPacket *p = av_packet_alloc();
    *out = NULL;
    if (!p)
        return err_set(ERR_NOMEM, "no memory for a packet");
    enum err e = source_read(c->source, p, &c->ended, &c->corrupt);
    if (e || c->ended)
        av_packet_free(&p);
    else
        *out = p;
    return e;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* What the packets alone give: the first picture, from copies of [0, *count) of `list`, which is
 * filled as far as it takes. NULL: none. */
struct probe {
    AVPacket *list[PROBE_MAX]; /* as they were read */
    int count;
    AVCodecContext *context;
    AVFrame *frame;
};

static enum err open_filter(struct chunks *c, const char *names, const AVCodecParameters *par)
{
    if (!names)
        return ERR_OK;
    int r = av_bsf_list_parse_str(names, &c->filter);
    if (r >= 0)
        r = avcodec_parameters_copy(c->filter->par_in, par);
    if (r >= 0) {
        c->filter->time_base_in = c->unit;
        r = av_bsf_init(c->filter);
    }
    return r < 0 ? source_error(r, names) : ERR_OK;
}

static enum err open_probe(struct probe *t, enum AVCodecID id)
{
    const AVCodec *codec = avcodec_find_decoder(id);
    t->context = codec ? avcodec_alloc_context3(codec) : NULL;
    t->frame = av_frame_alloc();
    if (!t->context || !t->frame)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    t->context->flags |= AV_CODEC_FLAG_UNALIGNED;
    int r = avcodec_open2(t->context, codec, NULL);
    return r < 0 ? source_error(r, "a decoder") : ERR_OK;
}

/* One packet more, also into the queue. *seen: t->frame has a picture. */
static enum err probe_one(struct chunks *c, struct probe *t, bool *seen)
{
    AVPacket *p, *copy;
    TRY(read_packet(c, &p));
    if (p) {
        copy = av_packet_clone(p);
        if (!copy) {
            av_packet_free(&p);
            return err_set(ERR_NOMEM, "no memory for a packet");
        }
        t->list[t->count++] = copy;
        TRY(enqueue(c, p));
    }
    avcodec_send_packet(t->context, p ? c->jump ? c->jump : c->queue[c->queued - 1] : NULL);
    *seen = avcodec_receive_frame(t->context, t->frame) == 0;
    return ERR_OK;
}

/* Why the packets would not give the decoder's pictures, by the first of them; NULL: they do. */
static const char *differs(const AVFrame *f, const AVCodecParameters *par)
{
    if (f->width != par->width || f->height != par->height)
        return "its container says another size than its packets";
    if (f->colorspace == AVCOL_SPC_UNSPECIFIED && par->color_space != AVCOL_SPC_UNSPECIFIED)
        return "its container says colours that its packets do not";
    if (f->color_range == AVCOL_RANGE_UNSPECIFIED && par->color_range != AVCOL_RANGE_UNSPECIFIED)
        return "its container says colours that its packets do not";
    return NULL;
}

static enum err probe(struct chunks *c, struct probe *t, const AVCodecParameters *par,
                      const char **why)
{
    bool seen = false;
    TRY(open_probe(t, par->codec_id));
    while (!seen && !c->ended && !c->jump && t->count < PROBE_MAX) {
        enum err e = probe_one(c, t, &seen);
        if (e == ERR_FORMAT) { /* of a packet that is no chunk */
            *why = "its packets do not stand alone";
            return ERR_OK;
        }
        TRY(e);
    }
    *why = seen ? differs(t->frame, par) : "its first packets give no picture";
    return ERR_OK;
}

/* The source reads them again. */
static enum err give_back(struct source *s, struct probe *t)
{
    AVPacket **list = malloc((size_t)(t->count + 1) * sizeof *list);
    if (!list)
        return err_set(ERR_NOMEM, "no memory for packets");
    for (int i = 0; i < t->count; i++)
        list[i] = t->list[i];
    source_unread(s, list, t->count);
    t->count = 0;
    return ERR_OK;
}

static void close_probe(struct probe *t)
{
    for (int i = 0; i < t->count; i++)
        av_packet_free(&t->list[i]);
    avcodec_free_context(&t->context);
    av_frame_free(&t->frame);
}

/* What is known before a packet is read: the index into `known`, or -1 and the reason. */
static int find(const AVCodecParameters *par, const char **why)
{
    size_t i = 0, count = sizeof known / sizeof *known;
    while (i < count && known[i].id != par->codec_id)
        i++;
    *why = i == count                                ? "its codec is none of the protocol's"
           : par->field_order > AV_FIELD_PROGRESSIVE ? "its pictures are made of fields"
                                                     : NULL;
    return *why ? -1 : (int)i;
}

enum err chunks_open(struct decoder *d, struct chunks **out, const char **why)
{
    struct probe t = {0};
    *out = NULL;
    struct source *s = decoder_source(d, why);
    const AVCodecParameters *par = s ? source_stream(s)->codecpar : NULL;
    int i = s ? find(par, why) : -1;
    if (i < 0)
        return ERR_OK;
    struct chunks *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "no memory for chunks");
    c->source = s;
    c->unit = source_stream(s)->time_base;
    c->codec = known[i].codec;
    c->reorders = par->video_delay > 0;
    c->newest = INT64_MIN;
    enum err e = open_filter(c, known[i].filter, par);
    if (!e)
        e = probe(c, &t, par, why);
    if (!e && *why)
        e = give_back(s, &t);
    close_probe(&t);
    if (e || *why)
        chunks_close(c);
    else
        *out = c;
    return e;
}

void chunks_close(struct chunks *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->queued; i++)
        av_packet_free(&c->queue[i]);
    av_packet_free(&c->given);
    av_packet_free(&c->jump);
    av_bsf_free(&c->filter);
    free(c);
}

/* ---- in order -----------------------------------------------------------------------------------
 */

/* Whether all that is shown before the queue's first has been read. */
static bool first_known(const struct chunks *c)
{
    return c->queued > 0 && (!c->reorders || c->ended || c->jump || c->queued == QUEUE_MAX ||
                             c->newest >= c->queue[0]->pts);
}

/* Of the queue's first: its place among the pictures shown. */
static int64_t place(const struct chunks *c)
{
    int64_t before = c->out, pts = c->queue[0]->pts;
    if (!c->reorders)
        return c->base + c->out;
    for (int64_t i = c->out - 1; i >= 0 && i >= c->out - RECENT; i--)
        before -= c->recent[i % RECENT] > pts;
    for (int i = 1; i < c->queued; i++)
        before += c->queue[i]->pts < pts;
    return c->base + before;
}

/* VP8 has pictures of their own packets that are only there for those after them. */
static bool is_shown(const struct chunks *c, const AVPacket *p)
{
    return c->codec != PACKET_VP8 || p->size == 0 || p->data[0] & 0x10;
}

/* The other side of a jump. */
static void begin_anew(struct chunks *c)
{
    c->queue[c->queued++] = c->jump;
    c->jump = NULL;
    c->base += c->out;
    c->out = 0;
}

static enum err fill(struct chunks *c)
{
    for (;;) {
        AVPacket *p;
        if (c->queued == 0 && c->jump)
            begin_anew(c);
        if (c->ended || first_known(c))
            return ERR_OK;
        TRY(read_packet(c, &p));
        if (p)
            TRY(enqueue(c, p));
    }
}

enum err chunks_next(struct chunks *c, struct chunk *out, bool *end)
{
    av_packet_free(&c->given);
    TRY(fill(c));
    *end = c->queued == 0;
    if (*end)
        return ERR_OK;
    const AVPacket *p = c->queue[0];
    int64_t number = place(c);
    bool key = p->flags & AV_PKT_FLAG_KEY;
    *out = (struct chunk){
        .codec = c->codec,
        .key_frame = key,
        .begins = key && number == c->base + c->out,
        .number = number,
        .pts =
            p->pts == AV_NOPTS_VALUE ? CHUNK_NO_PTS : av_rescale_q(p->pts, c->unit, AV_TIME_BASE_Q),
        .data = p->data,
        .len = (size_t)p->size,
    };
    if (is_shown(c, p))
        c->recent[c->out++ % RECENT] = p->pts;
    c->given = c->queue[0];
    c->queued--;
    for (int i = 0; i < c->queued; i++)
        c->queue[i] = c->queue[i + 1];
    return ERR_OK;
}
