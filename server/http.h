/* The HTTP front end from inside; nobody but server/http*.c includes this.
 *
 *   http.c          the event loop's callbacks: a request from its first line to its end
 *   http_loop.c     the event loop
 *   http_route.c    the table of endpoints
 *   http_framing.c  requests that can be read in two ways, refused
 *   http_headers.c  header values, parsed
 *   http_body.c     bodies: raw or multipart, to memory or to a job
 *   http_reply.c    answers: common headers, problem+json
 *   http_gzip.c     answers that are compressed
 *   http_image.c    a frame on its way through the workers and back
 *   http_stream.c, http_video.c, http_sse.c, http_page.c, http_misc.c   the endpoints
 *
 * One thread runs all of it, and never waits: a request that waits for another thread is suspended
 * (request_wait) and that thread resumes it (request_resume). libmicrohttpd frees nothing of a
 * suspended connection, not even when the client is gone, so whoever was told to answer a request
 * finds it; this is why requests are not counted. */
#ifndef TV3S_SERVER_HTTP_H
#define TV3S_SERVER_HTTP_H

#include "server/access.h"
#include "server/address.h"
#include "server/front.h"
#include "server/jobs.h"
#include "server/metrics.h"

#include <microhttpd.h>

struct request;
struct sse;
struct loop;

/* Handlers return an error to have it answered; else they have replied or called request_wait. */
typedef enum err (*handler)(struct request *r);

struct endpoint {
    const char *method, *path; /* {} stands for a name, # for a number */
    unsigned roles;            /* of which the key needs one (access.h) */
    const char *query;         /* the parameters it knows, separated by spaces; NULL: any */
    handler begin;             /* the headers are here, the body not yet; or NULL */
    enum err (*take)(struct request *r, const void *data, size_t len); /* body; NULL: has none */
    bool form;      /* the body may be multipart/form-data */
    handler answer; /* the body is here */
};

enum request_stage { REQUEST_HEADERS, REQUEST_BODY, REQUEST_WAITING, REQUEST_REPLIED };

struct request {
    struct http *http;
    struct server *server;
    struct MHD_Connection *connection;
    const struct endpoint *endpoint;
    struct owner *owner; /* who asks; NULL: nobody we know */
    struct address client;
    bool counted; /* `client` is not the peer, and was entered */
    enum request_stage stage;
    handler resumed; /* after request_wait */

    char id[65];                  /* X-Request-Id */
    char target[256], method[16]; /* for the log: as much as fits */
    const char *bad_target;       /* what is wrong with the target, or NULL */
    char name[SESSION_ID];        /* {} of the path */
    uint64_t number;              /* # of the path */
    const char *allow;            /* pattern of a path that knows other methods only */
    bool gzip;                    /* the client takes it */
    uint64_t started;
    int status; /* of the answer */

    /* the body */
    uint64_t limit; /* bytes at most; set by begin */
    uint64_t discarded;
    size_t brought; /* of the body, since loop_expect */
    struct MHD_PostProcessor *form;
    int files; /* file parts seen */
    bool in_file;
    bool text; /* the file part may be no file: it names none, and has been plain text so far */
    struct buf input;

    /* the first thing that went wrong with it */
    enum err error;
    char error_text[512];

    /* what it is about; freed with it */
    struct session_params params;
    struct session *session;
    struct job *job;
    bool job_open;           /* its body is still arriving */
    struct digest *repeated; /* of an upload whose key an accepted job has: `job` */
    struct item *item;       /* delivered */
    bool zipped;             /* its mask is */
    void *data;              /* a state */
    size_t data_len;
};

struct http {
    struct server *server;
    struct MHD_Daemon *daemon;
    int port;
    atomic_int requests, waiting;      /* alive; suspended by request_wait */
    struct MHD_Response *no_memory[2]; /* http_reply.c */
    struct addresses *addresses;
    struct sse *sse;
    struct loop *loop;
};

/* ---- http.c */
/* Suspends: `resumed` is called in the network thread after request_resume. Call it before the
 * request is given to another thread. */
void request_wait(struct request *r, handler resumed);
void request_resume(struct request *r); /* any thread; the request is not the caller's after */
/* Everything that it holds goes. */
void request_end(struct request *r, enum MHD_RequestTerminationCode end);
/* Keeps the first error, with the calling thread's err_text(). Returns e. */
enum err request_fail(struct request *r, enum err e);
const char *request_header(struct request *r, const char *name);
const char *request_query(struct request *r, const char *name);
/* model, mode, format, resize into r->params, whose owner is who asks. */
enum err request_params(struct request *r);
/* The stream, or the job, that the path names, if it belongs to who asks: into r->session, r->job.
 * There is no other way to one. */
enum err request_session(struct request *r);
enum err request_job(struct request *r);

/* ---- http_loop.c */
enum err loop_open(struct http *h);  /* listens: h->port */
enum err loop_start(struct http *h); /* h->daemon is there, and runs now */
/* MHD_OPTION_NOTIFY_CONNECTION */
void loop_connection(void *http, struct MHD_Connection *connection, void **context,
                     enum MHD_ConnectionNotificationCode code);
/* MHD_resume_connection, from any thread. */
void loop_resume(struct http *h, struct MHD_Connection *connection);
/* libmicrohttpd's limit of seconds for every connection; 0: none, ours do. After loop_open. */
unsigned loop_patience(const struct http *h);
/* So many seconds from now the client must have brought something, or it is hung up on; 0: no limit
 * but its pace. The network thread. */
void loop_expect(struct MHD_Connection *connection, double seconds);

/* The answer goes out before all of the body was read: see linger.h. */
void loop_unread(struct MHD_Connection *connection);
void loop_stop_listening(struct http *h); /* soon */
/* The connection has sent a request. The network thread. */
void loop_asked(struct http *h, struct MHD_Connection *connection, struct request *r);
/* It has ended: the connection may send the next. The network thread. */
void loop_answered(struct http *h, struct MHD_Connection *connection);
/* Nothing listens, and, but in a hurry, nobody who connected is still to ask. Any thread. */
bool loop_idle(const struct http *h, bool hurry);
void loop_stop(struct http *h);  /* the daemon runs no more, and nothing listens */
void loop_close(struct http *h); /* after the daemon */

/* ---- http_route.c */
/* The endpoint, with the path's parts in r->name and r->number; never NULL: what is not there has
 * an endpoint that answers 404 or 405, or to OPTIONS. */
const struct endpoint *route(struct request *r, const char *method, const char *path);

/* ---- http_framing.c */
/* ERR_ARG: the connection is to be closed, nothing behind the headers can be trusted. */
enum err framing_check(struct request *r, const char *version);

/* ---- http_body.c */
enum err body_open(struct request *r); /* r->limit is set; refuses what the headers tell */
enum err body_take(struct request *r, const void *data, size_t len);
enum err body_finish(struct request *r);
void body_close(struct request *r);
enum err body_to_memory(struct request *r, const void *data, size_t len); /* an endpoint's take */
/* Whether the client waits for 100 Continue before it sends its body. */
bool body_expected(struct request *r);
/* Content-Length, or UINT64_MAX. 0 without a body. */
uint64_t body_length(struct request *r);

/* ---- http_reply.c */
struct MHD_Response *reply_bytes(const char *mime, void *data,
                                 size_t len); /* takes malloc'd data */
struct MHD_Response *reply_static(const char *mime, const void *data, size_t len);
/* An answer that has no memory for a header is none: *answer is NULL then. NULL is allowed. */
void reply_header(struct MHD_Response **answer, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* What there is always memory for: 503, `out-of-memory`; one for each value of item->applied. */
enum err reply_open(struct http *h);
void reply_close(struct http *h);
/* Adds the common headers and queues; takes the answer. Instead of NULL (no memory) it sends that
 * which is always there. */
void reply_send(struct request *r, int status, struct MHD_Response *answer);
void reply_empty(struct request *r, int status);
void reply_json(struct request *r, int status, json_t *o); /* takes o */
void reply_json_at(struct request *r, int status, json_t *o, const char *location);
void reply_problem(struct request *r, enum err e, const char *detail);
/* The problems that are HTTP's alone: method, range. `answer` has its own headers. */
struct MHD_Response *reply_problem_of(struct request *r, int status, const char *type,
                                      const char *title, const char *detail);
/* Straight into the socket, for a body that does not end: the connection is closed next. */
void reply_at_once(struct request *r);

/* ---- http_gzip.c */
enum { GZIP_MIN = 512 }; /* bytes; less is not worth it */
/* Whether masks of this format shrink. */
bool gzip_pays(enum mask_format format);
/* gzips *data (malloc'd) in place when it gets smaller by a sixteenth. Any thread. */
bool gzip_in_place(void **data, size_t *len);
/* Content-Encoding and Vary, of an answer that is or might have been compressed. */
void gzip_headers(struct MHD_Response **answer, bool zipped);
/* Text, compressed if the client takes it. Takes malloc'd data. */
struct MHD_Response *reply_text(struct request *r, const char *mime, void *data, size_t len);
/* The same of data that stays. */
struct MHD_Response *reply_text_static(struct request *r, const char *mime, const void *data,
                                       size_t len);
/* A file from its beginning, compressed as it is sent. Takes fd. NULL: no memory, fd is closed. */
struct MHD_Response *gzip_file(int fd);

/* ---- http_image.c */
/* Sends r->input as a frame of r->session on its way; r->item is its answer. */
enum err image_segment(struct request *r);
enum err image_begin(struct request *r);
enum err segment_begin(struct request *r);
enum err segment_answer(struct request *r);

/* ---- http_stream.c */
enum err streams_list(struct request *r);
enum err stream_create(struct request *r);
enum err stream_put(struct request *r);
enum err stream_get(struct request *r);
enum err stream_delete(struct request *r);
enum err stream_frame_begin(struct request *r);
enum err stream_frame(struct request *r);
enum err stream_reset_state(struct request *r);
enum err stream_state_get(struct request *r);
enum err stream_state_begin(struct request *r);
enum err stream_state_put(struct request *r);

/* ---- http_video.c */
enum err video_begin(struct request *r);
enum err video_take(struct request *r, const void *data, size_t len);
enum err video_answer(struct request *r);
enum err videos_list(struct request *r);
enum err video_get(struct request *r);
enum err video_masks(struct request *r);
enum err video_mask(struct request *r);
enum err video_delete(struct request *r);

/* ---- http_sse.c */
enum err sse_open(struct http *h);
void sse_drain(struct http *h); /* every event stream ends */
void sse_close(struct http *h); /* NULL sse is allowed */
enum err video_events(struct request *r);

/* ---- http_misc.c */
enum err models_list(struct request *r);
enum err model_get(struct request *r);
enum err live(struct request *r);
enum err ready(struct request *r);
enum err metrics_get(struct request *r);

/* ---- http_page.c */
enum err server_get(struct request *r);
enum err page_get(struct request *r);

#endif
