/* One FFmpeg input: demuxer, decoder, its best video stream. Inside media/ only. */
#ifndef TV3S_MEDIA_SOURCE_H
#define TV3S_MEDIA_SOURCE_H

#include "media/decode.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

struct source;

/* `o` is borrowed until source_close. */
enum err source_open(const char *input, const struct decode_options *o, struct source **out);
void source_close(struct source *s); /* NULL is allowed */

/* The next decoded picture, owned by the source until the next call; NULL at the end. Damage is
 * reported and added to *corrupt. It may be on the device (media/device.h). ERR_DEVICE: that has
 * failed, and pictures are lost. */
enum err source_next(struct source *s, AVFrame **out, int64_t *corrupt);

/* In place of source_next, undecoded: the next packet of the stream into `to`, which is empty; *end
 * at the end. */
enum err source_read(struct source *s, AVPacket *to, bool *end, int64_t *corrupt);
/* These, which source_read gave, are read once more, before all others. Takes the packets, and what
 * they are listed in; only after all of the last ones were read. */
void source_unread(struct source *s, AVPacket **list, int count);

const AVStream *source_stream(const struct source *s);
bool source_still(const struct source *s);
/* Where a device was asked for and does not decode: the reason. Else NULL. */
const char *source_why(const struct source *s);

/* `code` for an FFmpeg result below 0, with its text: "WHAT: reason". */
enum err source_error(int result, const char *what);

/* decode.c: the source of a decoder that shows its pictures as they are: neither a folder nor a
 * still, and not turned. Else NULL, and *why has the reason. */
struct source *decoder_source(struct decoder *d, const char **why);

#endif
