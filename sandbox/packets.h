/* Packets of a live stream: media/packet.h in a child of the stream's own. Every tag comes back as
 * it says there; when the child dies those inside come back as PACKET_FAILED with ERR_DECODER. */
#ifndef TV3S_SANDBOX_PACKETS_H
#define TV3S_SANDBOX_PACKETS_H

#include "media/packet.h"
#include "sandbox/sandbox.h"

struct packets;

/* `s` NULL: decodes in this process. nv12: pictures may be NV12 (picture.h). `wait` is copied, and
 * may be given anew: a stream's packets come from one thread at a time, not always the same. */
enum err packets_open(struct sandbox *s, enum packet_codec codec, int64_t max_pixels, bool nv12,
                      const char *who, const struct sandbox_wait *wait, struct packets **out);
void packets_wait(struct packets *p, const struct sandbox_wait *wait);
void packets_close(struct packets *p, void (*give_back)(void *tag)); /* NULL is allowed */

/* As packet_decoder_codec, _send, _next, _held. */
enum packet_codec packets_codec(const struct packets *p);
enum err packets_send(struct packets *p, const void *data, size_t len, void *tag);
enum packet_result packets_next(struct packets *p, struct frame *f, void **tag, enum err *error);
int packets_held(const struct packets *p);

/* The child is gone: when packets_next has given all back, it is to be closed. */
bool packets_dead(const struct packets *p);

/* For the fuzzer: packets by a link, which it takes. */
struct link;
enum err packets_over(struct link *l, enum packet_codec codec, const struct sandbox_wait *wait,
                      struct packets **out);

#endif
