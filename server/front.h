/* The two front ends: HTTP and WebSocket. Network threads; they never block and never touch the
 * engine. */
#ifndef TV3S_SERVER_FRONT_H
#define TV3S_SERVER_FRONT_H

#include "base/err.h"
#include "server/server.h"
#include "server/session.h"

/* http.c: one epoll thread of libmicrohttpd. ERR_IO when the port is taken. */
enum err http_open(struct server *s, struct http **out);
int http_port(const struct http *h); /* the one bound, when configured as 0 */
/* Stops accepting; answers what is in flight within `seconds`. */
void http_drain(struct http *h, double seconds);
void http_close(struct http *h);

/* ws.c: one thread of libwebsockets. */
enum err ws_open(struct server *s, struct ws **out);
int ws_port(const struct ws *w);
/* Tells every client `bye`, reason "drain", after its frames in flight; within `seconds`. */
void ws_drain(struct ws *w, double seconds);
void ws_close(struct ws *w);
/* The keys changed: who may stream no more gets `bye`, reason "revoked". Any thread. */
void ws_check_keys(struct ws *w);
/* The stream was deleted or expired: its connection gets `bye`. Any thread. */
void ws_stream_gone(struct ws *w, struct session *s, const char *reason);
/* Another replica has the stream, or wants it: its connection gets `bye`, reason "takeover", and in
 * the second case only after its frames in flight and the hand-over. Any thread. */
void ws_stream_moved(struct ws *w, struct session *s, bool has);

/* params.c, shared: model, mode, format, resize of a query; `get` returns a value or NULL.
 * ERR_ARG, ERR_NOT_FOUND (model). */
enum err params_parse(struct server *s, const char *(*get)(void *ctx, const char *name), void *ctx,
                      struct session_params *out);

#endif
