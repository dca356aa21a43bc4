/* What the files of this library share; not for its users. */
#ifndef TV3S_CLIENT_PARTS_H
#define TV3S_CLIENT_PARTS_H

#include "base/buf.h"
#include "base/outfile.h"
#include "clients/c/tv3s_client.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>

enum { TYPE_MAX = 64 };

struct tv3s {
    char *url, *ws_url; /* without a slash at the end; ws_url NULL: not asked for yet */
    char *key, *ca;     /* or NULL */
    long timeout_ms;
    CURL *curl;
    struct buf body; /* of the last answer that was kept */
    char error[512], problem[TYPE_MAX];
    int status;
};

/* Keeps the sentence and returns `r`. */
enum tv3s_result client_fail(struct tv3s *c, enum tv3s_result r, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The failure that a function of base/ or proto/ gave: `e` with err_text(). */
enum tv3s_result client_err(struct tv3s *c, enum err e);

/* TV3S_REFUSED with what a problem object says; without one, with the status alone. */
enum tv3s_result client_refused(struct tv3s *c, int status, const void *body, size_t len);

/* The stable name of a problem object's type, such as "not-found"; "" without one. Valid while the
 * object lives. */
const char *client_problem_name(const json_t *problem);

/* "/v1/streams/ID/ws?..." into `out`, as a string. */
enum tv3s_result client_stream_path(struct tv3s *c, struct buf *out, const char *id,
                                    const struct tv3s_stream_options *o);

struct request {
    const char *method, *path;
    const char *upgrade_at; /* asks for a WebSocket at this URL, to learn why it is refused */
    FILE *from;             /* the body, of `len` bytes, -1: to its end; NULL: none */
    int64_t len;
    struct outfile *to; /* where the answer goes; NULL: c->body */
    tv3s_progress *progress;
    void *ctx;
};

/* One request and its answer. c->status is the answer's; 400 and more are TV3S_REFUSED. */
enum tv3s_result client_request(struct tv3s *c, const struct request *r);

/* A WebSocket that events come out of: socket.c, for stream.c. */
struct socket;
enum socket_event { SOCKET_OPEN, SOCKET_TEXT, SOCKET_BINARY, SOCKET_WRITABLE, SOCKET_CLOSED };

/* `data` is a whole message, or why the socket is closed; valid in the call. `code`: of the close
 * frame, or the HTTP status that refused it, or 0. */
typedef void socket_handler(void *ctx, enum socket_event event, const void *data, size_t len,
                            int code);

/* Begins to connect to `url`: "ws://host:port" + path. */
enum tv3s_result socket_open(struct tv3s *c, const char *url, socket_handler *handler, void *ctx,
                             struct socket **out);
void socket_close(struct socket *s); /* NULL is allowed */

/* Handles what there is, or waits for it, for at most `us` microseconds. */
void socket_serve(struct socket *s, int64_t us);

/* SOCKET_WRITABLE will come; in it, one message may be written. */
void socket_want_write(struct socket *s);
enum tv3s_result socket_write(struct socket *s, const void *data, size_t len, bool binary);

#endif
