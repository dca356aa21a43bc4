/* Messages out, in the order in which they were queued.
 *
 * A message is built when it is queued, except that dropped frames gather in one message until it
 * is sent. The socket is written to when it can take more, so a slow reader holds back its own
 * answers, its credit with them, and nobody else. */
#include "server/ws.h"

#include "base/whole.h"
#include "server/config.h"
#include "server/describe.h"
#include "proto/message.h"

#include <stdlib.h>
#include <string.h>

enum { GATHER = 256, LINGER = 5 };
/* libwebsockets keeps the name to itself, the number it has kept in all versions */
#define WRITE_CLOSE ((enum lws_write_protocol)4)

enum out_kind { OUT_TEXT, OUT_ANSWER, OUT_ERROR, OUT_DROPPED };

struct out {
    struct out *next;
    enum out_kind kind;
    struct buf bytes;        /* LWS_PRE bytes of room, then the message */
    enum drop_reason reason; /* OUT_DROPPED */
    uint64_t encoded;        /* OUT_ANSWER: clock_ns */
    int count;
    int64_t seq[]; /* OUT_DROPPED: GATHER of them, else none */
};

/* ---- the queue ----------------------------------------------------------------------------------
 */

/* The client cannot be told everything any more: it is better told nothing. */
static void give_up(struct connection *c)
{
    connection_fail(c, LWS_CLOSE_STATUS_UNEXPECTED_CONDITION);
}

static void free_out(struct out *o)
{
    if (o)
        buf_free(&o->bytes);
    free(o);
}

static struct out *new_out(enum out_kind kind)
{
    struct out *o = calloc(1, sizeof *o + (kind == OUT_DROPPED ? GATHER * sizeof o->seq[0] : 0));
    static const uint8_t room[LWS_PRE];
    if (!o) {
        err_set(ERR_NOMEM, "no memory for a message");
        return NULL;
    }
    o->kind = kind;
    if (buf_append(&o->bytes, room, sizeof room)) {
        free_out(o);
        return NULL;
    }
    return o;
}

static void push(struct connection *c, struct out *o)
{
    o->next = NULL;
    if (c->out_tail)
        c->out_tail->next = o;
    else
        c->out_head = o;
    c->out_tail = o;
    c->out_count++;
    lws_callback_on_writable(c->wsi);
}

static struct out *pop(struct connection *c)
{
    struct out *o = c->out_head;
    c->out_head = o->next;
    if (!c->out_head)
        c->out_tail = NULL;
    c->out_count--;
    return o;
}

void out_clear(struct connection *c)
{
    while (c->out_head)
        free_out(pop(c));
}

/* ---- text ---------------------------------------------------------------------------------------
 */

/* Writes `o`'s JSON behind what is in `to`. Takes `json`. */
static enum err append_json(struct buf *to, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    enum err e = text ? buf_text(to, text) : err_set(ERR_NOMEM, "no memory for a message");
    free(text);
    json_decref(json);
    return e;
}

static void push_json(struct connection *c, enum out_kind kind, json_t *json)
{
    struct out *o = new_out(kind);
    if (!o)
        json_decref(json);
    if (!o || append_json(&o->bytes, json)) {
        free_out(o);
        give_up(c);
        return;
    }
    push(c, o);
}

void out_json(struct connection *c, json_t *json)
{
    push_json(c, OUT_TEXT, json);
}

void out_hello(struct connection *c)
{
    static const char *const policy[] = {"none", "oldest", "newest"};
    struct session *s = c->session;
    const struct config *config = c->ws->server->config;
    json_t *o = json_pack(
        "{s:s, s:s, s:b, s:I, s:i, s:s, s:s, s:s, s:s, s:o, s:I}", "type", "hello", "stream", s->id,
        "resumed", !c->created || s->resumed, "last_seq", (json_int_t)atomic_load(&s->last_seq),
        "credit", connection_limit(c), "drop", policy[c->drop], "model", s->params.model->name,
        "mode", mode_name(s->params.stream.mode), "format", mask_format_name(c->format), "classes",
        describe_classes(s->params.model), "max_message", (json_int_t)config->max_image);
    if (o && c->ws->server->handover)
        json_object_set_new(o, "stored",
                            json_integer(c->stored == SESSION_NOT_STORED ? -1 : c->stored));
    out_json(c, o);
}

/* A state was stored since the client was told last. */
static void tell_stored(struct connection *c)
{
    int64_t stored = atomic_load(&c->session->lease.stored);
    if (stored == c->stored)
        return;
    c->stored = stored;
    out_json(c, json_pack("{s:s, s:I}", "type", "stored", "seq", (json_int_t)stored));
}

void out_stats(struct connection *c)
{
    out_json(c, json_pack("{s:s, s:o, s:i, s:i, s:I, s:I, s:I, s:I}", "type", "stats", "stream",
                          describe_stream(c->session), "credit", connection_limit(c), "in_flight",
                          c->in_flight, "received", (json_int_t)c->received, "answered",
                          (json_int_t)c->answered, "failed", (json_int_t)c->failed, "dropped",
                          (json_int_t)c->dropped));
}

void out_error(struct connection *c, const struct item *item)
{
    push_json(c, OUT_ERROR,
              json_pack("{s:s, s:I, s:o}", "type", "error", "seq", (json_int_t)item->seq, "problem",
                        describe_problem(item->error, item->error_text, NULL)));
}

void out_dropped(struct connection *c, int64_t seq, enum drop_reason reason)
{
    struct out *o = c->out_tail;
    c->dropped++;
    if (!o || o->kind != OUT_DROPPED || o->reason != reason || o->count == GATHER) {
        o = new_out(OUT_DROPPED);
        if (!o) {
            give_up(c);
            return;
        }
        o->reason = reason;
        push(c, o);
    }
    o->seq[o->count++] = seq;
}

static enum err write_dropped(struct out *o)
{
    static const char *const reason[] = {"oldest", "newest", "overload", "empty", "drain", "rate"};
    json_t *list = json_array();
    for (int i = 0; i < o->count; i++)
        whole_add(&list, json_integer(o->seq[i]));
    return append_json(&o->bytes, json_pack("{s:s, s:o, s:s}", "type", "dropped", "seq", list,
                                            "reason", reason[o->reason]));
}

/* ---- answers ------------------------------------------------------------------------------------
 */

static uint32_t microseconds(uint64_t from, uint64_t to)
{
    uint64_t us = from && to > from ? (to - from) / 1000 : 0;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

void out_answer(struct connection *c, struct item *item)
{
    const struct answer_message a = {
        .none = item->silent,
        .format = item->format,
        .from_zero = item->from_zero,
        .seq = item->seq,
        .pts = item->pts,
        .width = item->width,
        .height = item->height,
        .decode_us = microseconds(item->received, item->decoded),
        .queue_us = microseconds(item->decoded, item->batched),
        .compute_us = microseconds(item->batched, item->labelled),
        .encode_us = microseconds(item->labelled, item->encoded),
    };
    uint8_t header[ANSWER_HEADER];
    tell_stored(c);
    if (item->restarted)
        out_json(c, json_pack("{s:s, s:I}", "type", "restarted", "seq", (json_int_t)item->seq));
    struct out *o = new_out(OUT_ANSWER);
    message_write_answer(&a, header);
    if (!o || buf_append(&o->bytes, header, sizeof header) ||
        buf_append(&o->bytes, item->output.data, item->output.len)) {
        free_out(o);
        give_up(c);
        return;
    }
    o->encoded = item->encoded;
    push(c, o);
}

/* ---- writing ------------------------------------------------------------------------------------
 */

/* The client has its answer: the credit is back. */
static void settle(struct connection *c, const struct out *o)
{
    if (o->kind == OUT_ANSWER) {
        c->answered++;
        metric_observe(c->ws->server->metrics, METRIC_SECONDS_SEND,
                       (double)(clock_ns() - o->encoded) * 1e-9);
    }
    if (o->kind == OUT_ERROR)
        c->failed++;
    if (o->kind == OUT_ANSWER || o->kind == OUT_ERROR)
        connection_credit(c);
}

/* False when the socket is done for. */
static bool write_one(struct connection *c)
{
    struct out *o = pop(c);
    bool good = o->kind != OUT_DROPPED || write_dropped(o) == ERR_OK;
    if (good) {
        size_t len = o->bytes.len - LWS_PRE;
        enum lws_write_protocol how = o->kind == OUT_ANSWER ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
        good = lws_write(c->wsi, o->bytes.data + LWS_PRE, len, how) >= (int)len;
    }
    if (good)
        settle(c, o);
    free_out(o);
    return good;
}

int out_close(struct lws *wsi, int code, const char *reason)
{
    uint8_t room[LWS_PRE + 125];
    size_t len = strnlen(reason, 123);
    room[LWS_PRE] = (uint8_t)(code >> 8);
    room[LWS_PRE + 1] = (uint8_t)code;
    memcpy(room + LWS_PRE + 2, reason, len);
    return lws_write(wsi, room + LWS_PRE, len + 2, WRITE_CLOSE) < 0 ? -1 : 0;
}

/* Our close frame. The socket stays open, and what comes is thrown away, until the client's close
 * frame is here or LINGER seconds are over: a socket closed with bytes unread takes back what the
 * client has not read yet, and with it the reason. (lws_close_reason would close on the next
 * bytes of a client that floods.) */
static int close_and_linger(struct connection *c)
{
    c->sent_close = true;
    lws_rx_flow_control(c->wsi, 1);
    lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LINGER);
    return out_close(c->wsi, c->closing, c->fault[0] ? c->fault : c->bye ? c->bye : "");
}

int out_write(struct connection *c)
{
    while (c->out_head && !lws_send_pipe_choked(c->wsi))
        if (!write_one(c))
            return -1;
    connection_update(c);
    if (c->out_head || lws_partial_buffered(c->wsi)) {
        lws_callback_on_writable(c->wsi);
        return 0;
    }
    return c->said_bye && !c->sent_close ? close_and_linger(c) : 0;
}
