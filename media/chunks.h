/* Packets of a video, undecoded, as proto/PROTOCOL.md takes them: H.264 and HEVC as Annex B with
 * their parameter sets before each key frame, VP8, VP9, AV1, and JPEG files of Motion JPEG.
 *
 * A packet has the number of its picture in the order in which they are shown, which is that of the
 * decoder's frame; one without a picture that is shown has the number of the next. The pictures are
 * those that the decoder gives: where a packet alone would make another one of them (the container
 * turns it, or says colours that the packets do not) there are no chunks. */
#ifndef TV3S_MEDIA_CHUNKS_H
#define TV3S_MEDIA_CHUNKS_H

#include "media/packet.h"

#define CHUNK_JPEG   ((enum packet_codec)0)
#define CHUNK_NO_PTS INT64_MIN

struct chunk {
    enum packet_codec codec; /* or CHUNK_JPEG */
    bool key_frame;
    bool begins;         /* a key frame, and no packet that follows is shown before it */
    int64_t number, pts; /* microseconds, or CHUNK_NO_PTS */
    const uint8_t *data;
    size_t len;
};

struct chunks;

/* Of a decoder that has given no frame yet, and gives none while there are chunks. *out is NULL,
 * and *why the reason, where there are none: the decoder then gives all its frames. Otherwise it is
 * to live longer than the chunks. Errors as of decoder_next, and ERR_NOMEM. */
enum err chunks_open(struct decoder *d, struct chunks **out, const char **why);
void chunks_close(struct chunks *c); /* NULL is allowed */

/* The next packet, valid until the next call; *end at the end. ERR_FORMAT: what the first packets
 * promised does not hold any more, such as time stamps. */
enum err chunks_next(struct chunks *c, struct chunk *out, bool *end);

#endif
