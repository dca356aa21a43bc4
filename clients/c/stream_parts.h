/* What the files of a stream share: what comes in (stream_in.c), the connection
 * (stream_connect.c), what may have to be sent again (stream_kept.c), and the calls (stream.c). */
#ifndef TV3S_CLIENT_STREAM_PARTS_H
#define TV3S_CLIENT_STREAM_PARTS_H

#include "clients/c/parts.h"

#include <jansson.h>

struct flying {
    int64_t seq;
    bool packet;
    bool again; /* it was answered once, and is applied again to a state of before it */
    struct buf message;
};

enum { KEPT_BYTES = 64 << 20 }; /* of frames that may have to be applied again */

struct event {
    struct tv3s_event is;
    struct buf data; /* what its pointers point into */
    struct event *next;
};

struct tv3s_stream {
    struct tv3s *c;
    char *id;
    struct tv3s_stream_options o; /* its strings: our copies */
    struct socket *socket;        /* NULL: none */
    bool greeted, dead, ended; /* the server said hello; the socket is closed; so is the stream */
    bool resumed, wants_key_frame;
    bool ending, end_written; /* tv3s_end was called; the server knows */
    int64_t first_seq, next_seq;
    int64_t forgot; /* of the frames answered, the last that is not kept; or -1 */
    bool stores;    /* the server says what is stored */
    int64_t stored; /* INT64_MAX: it does not */
    bool rewound;   /* o.rewinds, and the caller does not know yet */
    int credit, failures;
    char bye[32], lost[128]; /* why the socket is closed */
    int lost_code;
    json_t *refused;         /* the problem that came in place of hello, or NULL */
    enum tv3s_result failed; /* of a handler, which cannot return it */
    struct flying *flying;
    size_t count, unsent, room;
    struct flying *kept; /* answered, and not stored by the server yet; in order */
    size_t kept_count, kept_room, kept_bytes;
    struct event *events, **events_end, *given;
};

int64_t stream_now_us(void);

void stream_event_free(struct event *e); /* NULL is allowed */

/* Keeps an event with a copy of `text`. No memory: s->failed. */
void stream_event(struct tv3s_stream *s, enum tv3s_event_kind kind, int64_t seq, const char *text);

/* Room for one more frame in flight, zero, at the end; NULL: no memory. */
struct flying *stream_flying_add(struct tv3s_stream *s);
void stream_flying_remove(struct tv3s_stream *s, size_t i);

/* ---- stream_kept.c: frames that a server's crash takes out of its state again ---------------- */
/* An answered frame, whose message is taken. */
void stream_keep(struct tv3s_stream *s, struct flying *f);
/* Frames up to this one are in the server's store. */
void stream_kept_forget(struct tv3s_stream *s, int64_t stored);
/* The server's state is that after frame `last`: what is kept of those after it flies again, before
 * all others. Whether they are all there. */
bool stream_kept_fly(struct tv3s_stream *s, int64_t last);
void stream_kept_free(struct tv3s_stream *s);

/* The socket_handler of a stream. */
void stream_on_socket(void *stream, enum socket_event event, const void *data, size_t len,
                      int code);

/* The socket, up to the server's hello. */
enum tv3s_result stream_connect(struct tv3s_stream *s);

/* Waits once for what the socket has, or makes the connection again; TV3S_TIMEOUT after `until`. */
enum tv3s_result stream_pump(struct tv3s_stream *s, int64_t until);

#endif
