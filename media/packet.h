/* Packets of a video codec in, packed RGB24 out: the decoder of one live stream.
 *
 * A packet is one access unit (H.264, HEVC: Annex B), one frame or superframe (VP8, VP9) or one
 * temporal unit (AV1: OBUs). Pictures come out in the order in which they are shown, which may be
 * some packets later. So every packet carries a tag of the caller's (not NULL), and every tag that
 * packet_decoder_send took comes back exactly once: with its picture, or as PACKET_EMPTY when it
 * has none (parameter sets alone, a second field, what precedes the first key frame), or by
 * packet_decoder_close. Of several pictures of one packet the last shown counts.
 *
 *     e = packet_decoder_send(d, data, len, item);       on an error the item stays the caller's
 *     while ((r = packet_decoder_next(d, &frame, &tag, &e)) != PACKET_MORE)   also after an error
 *         ...
 *
 * A damaged packet is an error and the decoder goes on: later packets decode as well as they can.
 * A decoder belongs to one thread at a time, and uses no other. */
#ifndef TV3S_MEDIA_PACKET_H
#define TV3S_MEDIA_PACKET_H

#include "media/decode.h"

struct packet_decoder;

/* Numbers of PROTOCOL.md, and of enum item_codec. */
enum packet_codec { PACKET_H264 = 1, PACKET_HEVC, PACKET_VP8, PACKET_VP9, PACKET_AV1 };

/* Pictures of more than `max_pixels` are ERR_LIMIT before their memory is taken. ERR_ARG for no
 * such codec, ERR_UNSUPPORTED when libavcodec was built without it, ERR_NOMEM. */
enum err packet_decoder_open(enum packet_codec codec, int64_t max_pixels,
                             struct packet_decoder **out);

/* Tags still inside are handed to `give_back` (NULL: there are none, or nobody cares). `d` NULL is
 * allowed. */
void packet_decoder_close(struct packet_decoder *d, void (*give_back)(void *tag));

enum packet_codec packet_decoder_codec(const struct packet_decoder *d);

/* Decodes one packet; `data` is copied. `len` 0 ends the sequence: all pictures inside come out by
 * packet_decoder_next, then all other tags (this one too, as PACKET_EMPTY), and the next packet
 * begins anew with a key frame.
 * ERR_FORMAT damaged, ERR_LIMIT, ERR_NOMEM: the tag was not taken. */
enum err packet_decoder_send(struct packet_decoder *d, const void *data, size_t len, void *tag);

enum packet_result {
    PACKET_MORE,   /* nothing now: send the next packet */
    PACKET_FRAME,  /* f and *tag: a picture; f->pixels is the caller's, to free() where not lent */
    PACKET_EMPTY,  /* *tag: its packet gives no picture */
    PACKET_FAILED, /* *tag: its picture cannot be converted; *error and err_text() say why */
};

/* `f` is zeroed but for lent memory and takes_nv12; only pixels, format, width and height are set.
 * After PACKET_FAILED it is zeroed. */
enum packet_result packet_decoder_next(struct packet_decoder *d, struct frame *f, void **tag,
                                       enum err *error);

/* How many results packet_decoder_next has now. */
int packet_decoder_ready(const struct packet_decoder *d);

/* Tags inside: packets whose picture has not come out. */
int packet_decoder_held(const struct packet_decoder *d);

#endif
