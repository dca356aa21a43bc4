/* What tv3s-client stream sends of its input: pictures, or packets that are not decoded here.
 *
 * Packets are kept for as long as the server may lose them. After a loss the server has a new
 * decoder, which can begin only with certain key frames (media/chunks.h): from there on packets are
 * decoded here, as the server decodes them, and the pictures that its state lacks are sent, up to
 * the next such key frame. So every frame is applied once and in order, and the masks are those of
 * an unbroken stream. */
#ifndef TV3S_CLIENT_FEED_H
#define TV3S_CLIENT_FEED_H

#include "clients/c/tv3s_client.h"
#include "media/decode.h"

enum feed_kind { FEED_AUTO, FEED_PICTURES, FEED_PACKETS };

struct feed;

/* AUTO sends packets where that gives the pictures of the decoder; with PACKETS it is
 * ERR_UNSUPPORTED where it does not. `d` belongs to the caller, and lives longer. Errors as of
 * decoder_next. */
enum err feed_open(struct decoder *d, enum feed_kind kind, struct feed **out);
void feed_close(struct feed *f); /* NULL is allowed */

/* Whether it sends packets: then the stream is one that the caller rewinds. */
bool feed_packets(const struct feed *f);

/* The next frame for tv3s_send, valid until the next call; *end at the end. */
enum err feed_next(struct feed *f, struct tv3s_frame *out, bool *end);

/* Frame `answered` has its answer, as have those before: sent again they are silent. Those up to
 * `stored` too are never sent again. */
void feed_settle(struct feed *f, int64_t answered, int64_t stored);

/* The server's state is that after frame `last`: goes on with the next. Returns how many frames
 * cannot be sent again. Of packets alone. */
int64_t feed_rewind(struct feed *f, int64_t last);

/* At the start, when the state is that after frame `last`: of this input, if it is resumed, else of
 * others, behind which its frames are numbered. */
enum err feed_begin(struct feed *f, int64_t last, bool resume);

#endif
