/* Packets of a live stream through its session's decoder (sandbox/packets.h). */
#ifndef TV3S_SERVER_DECODE_PACKET_H
#define TV3S_SERVER_DECODE_PACKET_H

#include "server/item.h"

struct sandbox;
struct sandbox_wait;

struct packet_way {
    struct sandbox *sandbox; /* NULL: decodes in this process */
    const struct sandbox_wait *wait;
    uint64_t max_pixels;
    /* Each item that is done with decoding, this one or earlier ones, goes here: with its frame, or
     * `empty`, or an error and err_text(). */
    void (*pass_on)(void *ctx, struct item *item, enum err e);
    void *ctx;
};

/* Decodes one ITEM_PACKET. Of a session's packets one at a time. */
void decode_packet(struct item *item, const struct packet_way *way);

#endif
