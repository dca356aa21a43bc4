#include "server/decode_packet.h"

#include "server/session.h"

#include "media/packet.h"

#include <stdlib.h>

struct way {
    void (*pass_on)(void *ctx, struct item *item, enum err e);
    void *ctx;
};

static char end_of_codec; /* the tag of a packet that is nobody's */

/* Everything that the decoder has to give now. */
static void take_all(struct packet_decoder *d, const struct way *way)
{
    struct frame f;
    void *tag;
    enum err e;
    for (;;) {
        enum packet_result r = packet_decoder_next(d, &f, &tag, &e);
        struct item *item = tag;
        if (r == PACKET_MORE)
            return;
        if (tag == &end_of_codec)
            continue;
        if (r == PACKET_FRAME) {
            item->rgb = f.rgb;
            item->width = f.width;
            item->height = f.height;
        }
        item->empty = r == PACKET_EMPTY;
        way->pass_on(way->ctx, item, r == PACKET_FAILED ? e : ERR_OK);
    }
}

static void give_back(void *tag)
{
    struct item *item = tag;
    item->empty = true;
    item->deliver(item);
}

/* Gives up the decoder: its pictures come out first. */
static void close_decoder(struct session *s, const struct way *way)
{
    if (s->decoder && !packet_decoder_send(s->decoder, NULL, 0, &end_of_codec))
        take_all(s->decoder, way);
    packet_decoder_close(s->decoder, give_back); /* empty, but after ERR_NOMEM */
    s->decoder = NULL;
    atomic_store(&s->held, 0);
}

/* The decoder for this packet's codec. */
static enum err get_decoder(struct item *item, uint64_t max_pixels, const struct way *way)
{
    struct session *s = item->session;
    enum packet_codec codec = (enum packet_codec)item->codec;
    if (s->decoder && packet_decoder_codec(s->decoder) == codec)
        return ERR_OK;
    close_decoder(s, way);
    return packet_decoder_open(codec, (int64_t)max_pixels, &s->decoder);
}

void decode_packet(struct item *item, uint64_t max_pixels,
                   void (*pass_on)(void *ctx, struct item *item, enum err e), void *ctx)
{
    const struct way way = {pass_on, ctx};
    struct session *s = session_ref(item->session); /* the items may be the last to hold it */
    enum err e = ERR_OK;
    if (item->input.len == 0) { /* nothing stays for the connection that comes next */
        close_decoder(s, &way);
        item->empty = true;
        pass_on(ctx, item, ERR_OK);
    } else {
        e = get_decoder(item, max_pixels, &way);
        if (!e)
            e = packet_decoder_send(s->decoder, item->input.data, item->input.len, item);
        if (e)
            pass_on(ctx, item, e);
        else
            buf_free(&item->input);
        if (s->decoder) {
            atomic_store(&s->held, packet_decoder_held(s->decoder));
            take_all(s->decoder, &way);
        }
    }
    session_unref(s);
}
