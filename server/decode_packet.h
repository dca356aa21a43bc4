/* Packets of a live stream through its session's decoder (media/packet.h). */
#ifndef TV3S_SERVER_DECODE_PACKET_H
#define TV3S_SERVER_DECODE_PACKET_H

#include "server/item.h"

/* Decodes one ITEM_PACKET. Each item that is done with decoding, this one or earlier ones, goes to
 * `pass_on`, with its frame, or `empty`, or an error and err_text(). On the session's worker. */
void decode_packet(struct item *item, uint64_t max_pixels,
                   void (*pass_on)(void *ctx, struct item *item, enum err e), void *ctx);

#endif
