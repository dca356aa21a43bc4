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
 * reported and added to *corrupt. */
enum err source_next(struct source *s, AVFrame **out, int64_t *corrupt);

const AVStream *source_stream(const struct source *s);
bool source_still(const struct source *s);

/* `code` for an FFmpeg result below 0, with its text: "WHAT: reason". */
enum err source_error(int result, const char *what);

#endif
