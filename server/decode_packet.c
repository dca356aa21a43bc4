#include "server/decode_packet.h"

#include "server/session.h"

#include "sandbox/packets.h"

#include <stdio.h>
#include <stdlib.h>

static char end_of_codec; /* the tag of a packet that is nobody's */

/* Everything that the decoder has to give now; `forget`: without its pictures. */
static void take_all(struct packets *d, const struct packet_way *way, bool forget)
{
    void *tag;
    enum err e;
    for (;;) {
        struct frame f = {0};
        enum packet_result r = packets_next(d, &f, &tag, &e);
        struct item *item = tag;
        if (r == PACKET_MORE)
            return;
        if (tag == &end_of_codec)
            continue;
        if (r == PACKET_FRAME && forget) {
            free(f.pixels);
        } else if (r == PACKET_FRAME) {
            item->pixels = f.pixels;
            item->pixel_format = f.format;
            item->width = f.width;
            item->height = f.height;
        }
        item->empty = r == PACKET_EMPTY || (r == PACKET_FRAME && forget);
        way->pass_on(way->ctx, item, r == PACKET_FAILED ? e : ERR_OK);
    }
}

static void give_back(void *tag)
{
    struct item *item = tag;
    item->empty = true;
    item->deliver(item);
}

/* Gives up the decoder: its pictures come out first, or are forgotten. */
static void close_decoder(struct session *s, const struct packet_way *way, bool forget)
{
    if (s->decoder) {
        packets_wait(s->decoder, way->wait);
        packets_send(s->decoder, NULL, 0, &end_of_codec);
        take_all(s->decoder, way, forget); /* after an error too: what is inside comes back */
    }
    packets_close(s->decoder, give_back); /* empty, but after ERR_NOMEM */
    s->decoder = NULL;
    atomic_store(&s->held, 0);
}

/* The decoder for this packet's codec. */
static enum err get_decoder(struct item *item, const struct packet_way *way)
{
    struct session *s = item->session;
    enum packet_codec codec = (enum packet_codec)item->codec;
    char who[16 + SESSION_ID];
    if (s->decoder && packets_codec(s->decoder) == codec) {
        packets_wait(s->decoder, way->wait);
        return ERR_OK;
    }
    close_decoder(s, way, false);
    snprintf(who, sizeof who, "stream=%s", s->id);
    return packets_open(way->sandbox, codec, (int64_t)way->max_pixels, session_takes_nv12(s), who,
                        way->wait, &s->decoder);
}

static void decode(struct item *item, const struct packet_way *way)
{
    struct session *s = item->session;
    enum err e = get_decoder(item, way);
    if (!e)
        e = packets_send(s->decoder, item->input.data, item->input.len, item);
    if (e)
        way->pass_on(way->ctx, item, e);
    else
        buf_free(&item->input);
    if (!s->decoder)
        return;
    atomic_store(&s->held, packets_held(s->decoder));
    take_all(s->decoder, way, false);
    if (packets_dead(s->decoder)) /* the next packet gets another, and begins anew */
        close_decoder(s, way, false);
}

void decode_packet(struct item *item, const struct packet_way *way)
{
    struct session *s = session_ref(item->session); /* the items may be the last to hold it */
    if (item->input.len == 0) { /* nothing stays for the connection that comes next */
        close_decoder(s, way, item->forget);
        item->empty = true;
        way->pass_on(way->ctx, item, ERR_OK);
    } else {
        decode(item, way);
    }
    session_unref(s);
}
