/* The WebSocket front end from inside; nobody but server/ws*.c includes this.
 *
 *   ws.c             the service thread, libwebsockets' callbacks, what other threads hand over
 *   ws_upgrade.c     from the HTTP request to a connection, or a refusal
 *   ws_connection.c  a connection's life: hello, credit, the end
 *   ws_in.c          messages in: frames and control
 *   ws_out.c         messages out, in order
 *
 * All of it runs in the service thread, which never waits. Items and commands on their way point to
 * their connection, which lives until the last of them is back (`outstanding`), whether or not the
 * socket still does: a disconnect at any step frees what it holds and leaves the rest to come home.
 */
#ifndef TV3S_SERVER_WS_H
#define TV3S_SERVER_WS_H

#include "server/access.h"
#include "server/address.h"
#include "server/front.h"
#include "server/metrics.h"
#include "server/pace.h"
#include "server/sched.h"
#include "server/tls.h"

#include <jansson.h>
#include <libwebsockets.h>
#include <pthread.h>

enum drop_policy { DROP_NONE, DROP_OLDEST, DROP_NEWEST };

/* Why a frame was dropped, as the client is told. */
enum drop_reason {
    DROPPED_OLDEST,
    DROPPED_NEWEST,
    DROPPED_OVERLOAD,
    DROPPED_EMPTY,
    DROPPED_DRAIN,
    DROPPED_RATE
};

/* Why the server closes: what `bye` says, and the close code. */
enum close_code {
    CLOSE_END = 1000,
    CLOSE_DRAIN = 1001,
    CLOSE_DEVICE = 1011,
    CLOSE_TAKEOVER = 4001,
    CLOSE_REVOKED = 4003,
    CLOSE_GONE = 4004,
    CLOSE_REFUSED = 4009
};

struct out; /* ws_out.c: a message that waits to be sent */
struct connection;

/* Who was let in, from then to the end of the socket: the wsi's opaque pointer leads to it. */
struct visitor {
    struct address peer;
    bool counted;                  /* entered */
    struct connection *connection; /* NULL before the upgrade, and after its end */
    uint64_t until;                /* clock_ns: its body, which is thrown away, has come by then */
};

struct connection {
    struct ws *ws;
    struct connection *next, **link; /* of the ws's list, while wsi is there */
    struct lws *wsi;                 /* NULL: the socket is gone */
    struct session *session;         /* a reference */
    struct address client;           /* entered by `counted`: it came by a proxy */
    bool counted;
    bool listed, created, open; /* open: said hello */

    /* what the client asked for */
    enum drop_policy drop;
    enum mask_format format;
    bool format_given; /* else the stream's */

    /* flow */
    int credit;        /* frames the client may have in flight, without `delay` */
    int delay;         /* frames on top, since the packet decoder keeps so many back */
    int in_flight;     /* of the client's credit: answers not written yet */
    int outstanding;   /* items and commands that others have */
    struct item *held; /* drop=oldest: the frame that waits for a credit */
    int refused;       /* frames dropped of late (ws_connection.c) */
    uint64_t forgiven; /* clock_ns: since when REFUSED_RATE has not been taken off it */
    bool stopped;      /* we do not read, for the outstanding or the answers pile up */
    bool packets;      /* the session's decoder may hold some of ours */
    unsigned patience; /* milliseconds until the next look at the decoder or the old frames */
    uint64_t since;    /* clock_ns of the upgrade */
    struct pace pace;  /* at which it takes answers */

    /* the end */
    bool ended;      /* the client says: no more frames */
    int closing;     /* the close code, once we are to close when all is answered */
    const char *bye; /* its reason */
    bool wanted;     /* another replica wants the stream */
    bool handed;     /* it was handed over, or that was tried */
    bool said_bye;   /* nothing more is taken in, and what comes back is not told */
    bool sent_close; /* the close frame is out: the client's is awaited, for a while */
    char fault[124]; /* what the client did wrong, for the close frame; or "" */

    /* the message that is arriving */
    struct buf message;

    int64_t stored; /* number of the last frame in the store, as the client knows */
    struct out *out_head, *out_tail;
    int out_count;
    uint64_t received, answered, failed, dropped; /* frames */
};

/* A command's way back: a reset, or a hand-over. */
struct ws_reset {
    struct command command; /* first */
    struct connection *owner;
    struct ws_reset *next;
};

/* ws_stream_gone and ws_stream_moved, from another thread. */
struct ws_gone {
    struct ws_gone *next;
    struct session *session; /* a reference */
    int code;
    bool now;
    const char *reason; /* a constant */
};

struct ws {
    struct server *server;
    struct addresses *addresses;
    struct lws_context *context;
    struct lws_vhost *vhost;
    struct lws_protocols protocols[2];
    lws_retry_bo_t liveness;
    int port;
    bool kept; /* systemd keeps the listening socket */
    pthread_t thread;
    bool started;

    /* service thread */
    struct entrance *entrance;
    struct visitor *visitor; /* [files], by descriptor */
    int files;               /* as many has libwebsockets' table */
    int visitors;            /* let in */
    struct connection *connections;
    int count;
    bool draining;
    lws_sorted_usec_list_t every_second;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t empty; /* count became 0 while draining */
    struct item *items_head, *items_tail;
    struct ws_reset *resets_head, *resets_tail;
    struct ws_gone *gone;
    bool stop, drain, kill, check_keys; /* asked by the main thread */
    bool is_empty;
};

/* ---- ws.c */
void ws_take_item(struct item *item);  /* item->deliver: any thread */
void ws_take_reset(struct command *c); /* command->done: any thread */

/* ---- ws_upgrade.c */
/* LWS_CALLBACK_HTTP_CONFIRM_UPGRADE, `to` what the header says: 0 goes on, with the connection as
 * the visitor's; 1: refused with an answer; -1: hang up. */
int upgrade_confirm(struct ws *w, struct lws *wsi, const char *to);
/* A plain HTTP request: 426. What LWS_CALLBACK_HTTP returns. */
int upgrade_refuse_http(struct lws *wsi);
/* A piece of its body. What LWS_CALLBACK_HTTP_BODY returns. */
int upgrade_discard(struct lws *wsi);

/* ---- ws_connection.c */
/* ERR_NOMEM, ERR_ADDRESS. Takes the reference on the session. */
enum err connection_open(struct ws *w, struct lws *wsi, const struct address *client,
                         struct session *session, struct connection **out);
void connection_established(struct connection *c);
void connection_timer(struct connection *c);
/* The socket is gone. Frees it, at once or when the last item is back. */
void connection_lost(struct connection *c);
/* An item or a command is back. */
void connection_item(struct connection *c, struct item *item);
void connection_reset_done(struct connection *c, const struct command *command);
/* Answers what is in flight, says bye, closes. `now`: without waiting for what is in flight. */
void connection_close(struct connection *c, int code, const char *reason, bool now);
/* The client broke a rule: closes with `code` and err_text(), after nothing. */
void connection_fail(struct connection *c, int code);
/* After every event: closes when it is time, lets the held frame go, stops or goes on reading. */
void connection_update(struct connection *c);

/* A frame of the client's credit is answered, or will not be. */
void connection_credit(struct connection *c);
/* Frames the client may have in flight. */
int connection_limit(const struct connection *c);
/* Gives the item to its worker. Takes it. */
void connection_submit(struct connection *c, struct item *item);
/* The item is dropped: tells the client. Takes it; a packet is decoded nevertheless. */
void connection_drop(struct connection *c, struct item *item, enum drop_reason reason);
void connection_reset(struct connection *c);

/* ---- ws_in.c */
/* Some bytes of a message. */
void in_receive(struct connection *c, const void *data, size_t len);

/* ---- ws_out.c */
/* Each queues one message. When memory runs out the connection is closed: nothing is lost in
 * silence. */
void out_json(struct connection *c, json_t *o); /* takes o */
void out_hello(struct connection *c);
void out_stats(struct connection *c);
void out_answer(struct connection *c, struct item *item); /* with its notice of restart */
void out_error(struct connection *c, const struct item *item);
void out_dropped(struct connection *c, int64_t seq, enum drop_reason reason);
/* LWS_CALLBACK_SERVER_WRITEABLE: what it returns. */
int out_write(struct connection *c);
void out_clear(struct connection *c);
/* Writes a close frame. 0, or -1 when the socket is done for. */
int out_close(struct lws *wsi, int code, const char *reason);

#endif
