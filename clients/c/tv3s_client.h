/* Client of tv3sd in C: upload videos, stream frames, get masks.
 *
 * `struct tv3s` is a server, `struct tv3s_stream` one live stream of it. Calls block. A server and
 * its streams belong to one thread at a time; threads that want their own open their own.
 *
 * A call returns TV3S_OK or the kind of failure, and tv3s_error() has the sentence. Structs of
 * options may be all zero. Strings are UTF-8 and copied; what a call gives out says how long it is
 * valid. The wire is proto/PROTOCOL.md, the formats of masks are proto/MASKS.md. */
#ifndef TV3S_CLIENT_H
#define TV3S_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tv3s_result {
    TV3S_OK,
    TV3S_REFUSED,  /* the server says no: tv3s_problem() says what kind of no */
    TV3S_LOST,     /* there is no connection, or it broke; of an upload: it may be tried again */
    TV3S_PROTOCOL, /* the server says what this client does not understand */
    TV3S_FILE,     /* a file here cannot be read or written */
    TV3S_ARGUMENT,
    TV3S_MEMORY,
    TV3S_STOPPED, /* a callback said so */
    TV3S_TIMEOUT,
    TV3S_AGAIN /* of a stream that the caller rewinds: TV3S_RECONNECTED comes first */
};

/* ---- a server ----------------------------------------------------------------------------------
 */

struct tv3s;

struct tv3s_options {
    const char *url;    /* NULL: "http://127.0.0.1:8080" */
    const char *ws_url; /* of the WebSocket, as "wss://host:port"; NULL: the server is asked */
    const char *key;    /* API key; NULL: none */
    const char *ca;     /* file of certificates to trust for https and wss; NULL: the system's */
    int timeout_ms;     /* without a byte; 0: 60000 */
};

enum tv3s_result tv3s_open(const struct tv3s_options *o, struct tv3s **out);
void tv3s_close(struct tv3s *c); /* after its streams; NULL is allowed */

/* Of the last call that failed: one line; of TV3S_REFUSED the stable type ("not-found") and the
 * HTTP status, else "" and 0. Valid until the next call. */
const char *tv3s_error(const struct tv3s *c);
const char *tv3s_problem(const struct tv3s *c);
int tv3s_status(const struct tv3s *c);

/* The JSON that GET `path` answers, such as "/v1/server", "/v1/models" or "/v1/streams". Valid
 * until the next call. */
enum tv3s_result tv3s_get(struct tv3s *c, const char *path, const char **json);

/* Bytes so far, or frames, of `total`; -1: nobody knows. false stops the call with TV3S_STOPPED. */
typedef bool tv3s_progress(void *ctx, int64_t done, int64_t total);

/* ---- uploaded videos ---------------------------------------------------------------------------
 */

struct tv3s_params {
    const char *model, *mode, *format, *resize; /* NULL: the server's default */
    const char *webhook; /* of an upload: the URL that the server tells of its end; NULL: none */
};

enum tv3s_state { TV3S_QUEUED, TV3S_RUNNING, TV3S_SUCCEEDED, TV3S_FAILED, TV3S_CANCELLED };

struct tv3s_job {
    char id[65];
    enum tv3s_state state;
    int64_t done, total; /* frames; total -1: not known yet */
    char error[256];     /* why it failed; else "" */
    char warning[256];   /* what of the video is missing or damaged; else "" */
};

/* `path` "-" is standard input. `progress` may be NULL. */
enum tv3s_result tv3s_upload(struct tv3s *c, const char *path, const struct tv3s_params *p,
                             tv3s_progress *progress, void *ctx, struct tv3s_job *out);
enum tv3s_result tv3s_job(struct tv3s *c, const char *id, struct tv3s_job *out);

/* Until the job has ended, in whatever state. A connection that breaks meanwhile is made again for
 * as long as the timeout says. */
enum tv3s_result tv3s_wait(struct tv3s *c, const char *id, tv3s_progress *progress, void *ctx,
                           struct tv3s_job *out);

/* The result into the file `path`, which is whole or absent. "-" is standard output. */
enum tv3s_result tv3s_masks(struct tv3s *c, const char *id, const char *path,
                            tv3s_progress *progress, void *ctx);
enum tv3s_result tv3s_delete_job(struct tv3s *c, const char *id); /* cancels, and deletes it */

/* ---- one image ---------------------------------------------------------------------------------
 */

/* The mask of an image file, into the file `path`, whole or absent. "-": standard input, output. */
enum tv3s_result tv3s_segment(struct tv3s *c, const char *image, const struct tv3s_params *p,
                              const char *path);

/* ---- live streams -------------------------------------------------------------------------------
 * The server keeps a stream and its hidden state when the connection ends, for a while. */

enum tv3s_drop { TV3S_DROP_NONE, TV3S_DROP_OLDEST, TV3S_DROP_NEWEST };

struct tv3s_stream_options {
    struct tv3s_params params;
    enum tv3s_drop drop; /* what becomes of frames beyond the credit; NONE: tv3s_send waits */
    int credit;          /* frames in flight; 0: the server's default */
    bool takeover;       /* take the stream from another connection */
    int reconnects;      /* in a row, of a connection that broke; 0: none */
    bool
        rewinds; /* after TV3S_RECONNECTED the caller itself goes on with the frame that follows it:
                    for packets, which a new decoder cannot begin with anywhere. Nothing is kept */
};

enum tv3s_kind { TV3S_IMAGE = 1, TV3S_RGB24, TV3S_NV12, TV3S_PACKET }; /* as on the wire */
enum tv3s_codec { TV3S_NO_CODEC, TV3S_H264, TV3S_HEVC, TV3S_VP8, TV3S_VP9, TV3S_AV1 };
#define TV3S_NO_PTS INT64_MIN

struct tv3s_frame {
    enum tv3s_kind kind;
    enum tv3s_codec codec; /* of TV3S_PACKET */
    bool key_frame;        /* of TV3S_PACKET */
    bool silent;           /* applied, but no mask wanted */
    int width, height;     /* of TV3S_RGB24 and TV3S_NV12 */
    int64_t pts;           /* microseconds, or TV3S_NO_PTS */
    bool numbered; /* `seq` is its number, above all before; of TV3S_PACKET: that of its picture in
                      the order of showing. Else it is the next */
    int64_t seq;
    const void *data;
    size_t len;
};

enum tv3s_event_kind {
    TV3S_ANSWER,       /* a frame's mask */
    TV3S_DROPPED,      /* a frame that will have no answer: `text` is the reason */
    TV3S_UNANSWERED,   /* a frame that is in the state, but whose answer went with a connection */
    TV3S_FAILED_FRAME, /* `text` is the problem's type; the stream is as if it had not been sent */
    TV3S_RESTARTED,    /* the state began anew with this frame, or is not the one that it was */
    TV3S_RECONNECTED,  /* seq: the last frame that is in the state; -1: none */
    TV3S_ENDED         /* no more events; `text`: "end", "takeover", "deleted", "idle" */
};

struct tv3s_event { /* pointers are valid until the next call on the stream */
    enum tv3s_event_kind kind;
    int64_t seq;
    const char *text;
    /* of TV3S_ANSWER */
    int64_t pts;
    int width, height;
    bool from_zero; /* the state was zero before this frame */
    uint32_t decode_us, queue_us, compute_us, encode_us;
    const void *mask; /* NULL: the frame was silent */
    size_t mask_len;
};

struct tv3s_stream;

/* Connects. The stream is made where it is not there yet. */
enum tv3s_result tv3s_stream_open(struct tv3s *c, const char *id,
                                  const struct tv3s_stream_options *o, struct tv3s_stream **out);
void tv3s_stream_close(struct tv3s_stream *s); /* the connection only; NULL is allowed */

/* The number of the last frame that was in the state when the connection opened; -1: none. */
int64_t tv3s_stream_last_seq(const struct tv3s_stream *s);
bool tv3s_stream_resumed(const struct tv3s_stream *s); /* it was there before */
int tv3s_stream_in_flight(const struct tv3s_stream *s);

/* Frames up to this one need not be sent again, whatever happens to the server; INT64_MAX: all that
 * were answered. */
int64_t tv3s_stream_stored(const struct tv3s_stream *s);

/* A reconnected stream of packets goes on with a key frame: those before it are only dropped. Not
 * where the caller rewinds. */
bool tv3s_stream_wants_key_frame(const struct tv3s_stream *s);

/* Sends a copy. With TV3S_DROP_NONE it waits for a credit, collecting events meanwhile: there are
 * never more than the credit says. `seq`, which may be NULL, gets the frame's number. TV3S_LOST
 * where the connection broke and could not be made again. TV3S_AGAIN: it was made again, nothing is
 * sent. */
enum tv3s_result tv3s_send(struct tv3s_stream *s, const struct tv3s_frame *f, int64_t *seq);

/* The next event; waits for at most `timeout_ms` (-1: as long as the server's timeout says), then
 * TV3S_TIMEOUT. */
enum tv3s_result tv3s_next(struct tv3s_stream *s, int timeout_ms, struct tv3s_event *out);

/* No more frames: the answers of those in flight are still to come, then TV3S_ENDED. TV3S_AGAIN,
 * and a TV3S_RECONNECTED that comes later, take it back. */
enum tv3s_result tv3s_end(struct tv3s_stream *s);

/* The hidden state as a safetensors file, whole or absent; and back. restore makes the stream, with
 * the server's defaults, where there is none. */
enum tv3s_result tv3s_save_state(struct tv3s *c, const char *id, const char *path);
enum tv3s_result tv3s_restore_state(struct tv3s *c, const char *id, const char *path);
enum tv3s_result tv3s_reset(struct tv3s *c, const char *id);
enum tv3s_result tv3s_delete_stream(struct tv3s *c, const char *id);

#endif
