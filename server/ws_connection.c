/* A connection's life.
 *
 *     upgrade -> (old frames come home, or the stream from elsewhere) -> hello -> frames -> end |
 * drain | takeover | lost
 *
 * Hello says the number of the last frame applied, so it waits until frames of an earlier
 * connection have had their effect. Until then nothing is read.
 *
 * Credit: in_flight counts what the client counts, frames sent and not answered. Whatever comes
 * beyond the limit is the drop policy's. With `oldest` one frame is held here until a credit is
 * free, and a newer one takes its place: the policy of a camera, whose newest picture is the one
 * worth having. Reordering would starve a client that has spent its credit on packets which the
 * decoder keeps back; then, and only then, the limit grows by what the decoder keeps.
 *
 * Reading stops while too much of the connection is under way (packets that are only decoded,
 * resets) or waits to be read by the client. And to read and drop costs time that others' frames
 * need: of what is dropped, a camera's 60 frames a second are read with some to spare, REFUSED_MAX
 * at once and REFUSED_RATE a second. Beyond that reading waits for a credit. A flood is then the
 * sender's to hold. */
#include "server/ws.h"

#include "server/config.h"
#include "server/describe.h"
#include "server/handover.h"
#include "server/log.h"
#include "server/workers.h"

#include <stdio.h>
#include <stdlib.h>

enum { MORE_OUTSTANDING = 16, OUT_MAX = 256, REFUSED_MAX = 16, REFUSED_RATE = 100 };
enum { OLD_FRAMES_MS = 3, OLD_FRAMES_SECONDS = 10, DECODER_MS = 2, DECODER_MS_MAX = 64 };

/* ---- birth --------------------------------------------------------------------------------------
 */

/* Who comes by a proxy; the others were counted when they were let in. */
static enum err enter(struct connection *c, struct ws *w, struct lws *wsi,
                      const struct address *client)
{
    const struct visitor *v = lws_get_opaque_user_data(wsi);
    c->client = *client;
    c->counted = address_trusted(w->addresses, &v->peer);
    return c->counted ? address_enter(w->addresses, client) : ERR_OK;
}

enum err connection_open(struct ws *w, struct lws *wsi, const struct address *client,
                         struct session *session, struct connection **out)
{
    struct connection *c = calloc(1, sizeof *c);
    enum err e = c ? enter(c, w, wsi, client) : err_set(ERR_NOMEM, "no memory for a connection");
    *out = c;
    if (e) {
        free(c);
        session_unref(session);
        return e;
    }
    c->ws = w;
    c->wsi = wsi;
    c->session = session;
    c->since = c->forgiven = clock_ns();
    c->link = &w->connections;
    c->next = w->connections;
    if (c->next)
        c->next->link = &c->next;
    w->connections = c;
    w->count++;
    metric_add(w->server->metrics, METRIC_WS_CONNECTIONS, 1);
    return ERR_OK;
}

static void set_timer(struct connection *c, unsigned milliseconds)
{
    c->patience = milliseconds;
    lws_set_timer_usecs(c->wsi, (lws_usec_t)milliseconds * 1000);
}

/* Frames of an earlier connection are home, or lost somewhere: we begin. */
static void begin(struct connection *c)
{
    session_renumber(c->session);
    c->open = true;
    c->stored = atomic_load(&c->session->lease.stored);
    if (!c->format_given)
        c->format = c->session->params.format;
    log_event(LOG_INFO, "ws_opened", "stream=%s credit=%d last_seq=%lld", c->session->id, c->credit,
              (long long)atomic_load(&c->session->last_seq));
    out_hello(c);
    connection_update(c);
}

/* The stream is not opened, so neither is the connection. */
static void refuse(struct connection *c)
{
    const struct session *s = c->session;
    out_json(c, json_pack("{s:s, s:n, s:o}", "type", "error", "seq", "problem",
                          describe_problem(s->refused, s->refused_text, NULL)));
    connection_close(c, CLOSE_REFUSED, "refused", true);
}

static bool old_frames(const struct connection *c)
{
    bool patient = clock_ns() - c->since < OLD_FRAMES_SECONDS * 1000000000ull;
    return patient && atomic_load(&c->session->in_flight) > 0;
}

static void begin_when_ready(struct connection *c)
{
    if (c->said_bye)
        return;
    if (atomic_load(&c->session->phase) == SESSION_OPENING || old_frames(c)) {
        connection_update(c);
        set_timer(c, OLD_FRAMES_MS);
    } else if (c->session->refused) {
        refuse(c);
    } else if (atomic_load(&c->session->phase) == SESSION_LEAVING) {
        connection_close(c, CLOSE_TAKEOVER, "takeover", true);
    } else {
        begin(c);
    }
}

void connection_established(struct connection *c)
{
    begin_when_ready(c);
}

/* ---- the timer ----------------------------------------------------------------------------------
 */

/* All credit is in use: is it because the decoder keeps pictures back? */
static void look_at_decoder(struct connection *c)
{
    if (c->in_flight < connection_limit(c))
        return;
    int held = atomic_load(&c->session->held);
    if (held <= c->delay) {
        set_timer(c, c->patience < DECODER_MS_MAX ? c->patience * 2 : DECODER_MS_MAX);
        return;
    }
    c->delay = held;
    out_json(c, json_pack("{s:s, s:i}", "type", "credit", "credit", connection_limit(c)));
    connection_update(c);
}

void connection_timer(struct connection *c)
{
    if (c->open)
        look_at_decoder(c);
    else
        begin_when_ready(c);
}

/* ---- items out and back -------------------------------------------------------------------------
 */

int connection_limit(const struct connection *c)
{
    return c->credit + c->delay;
}

void connection_credit(struct connection *c)
{
    const uint64_t each = 1000000000 / REFUSED_RATE;
    uint64_t now = clock_ns(), forgiven = (now - c->forgiven) / each;
    c->in_flight--;
    c->refused = (uint64_t)c->refused > forgiven ? c->refused - (int)forgiven : 0;
    c->forgiven = c->refused ? c->forgiven + forgiven * each : now;
}

void connection_submit(struct connection *c, struct item *item)
{
    struct server *server = c->ws->server;
    bool reorders = item->codec == CODEC_H264 || item->codec == CODEC_HEVC;
    item->deliver = ws_take_item;
    item->owner = c;
    c->outstanding++;
    if (!item->dropped)
        c->in_flight++;
    if (item->kind == ITEM_PACKET)
        c->packets = item->input.len > 0;
    enum err e = workers_decode(server->workers, item);
    if (e) {
        item_fail(item, e);
        item_deliver(item, server->metrics);
    }
    if (c->wsi && reorders && c->in_flight >= connection_limit(c))
        set_timer(c, DECODER_MS);
}

void connection_drop(struct connection *c, struct item *item, enum drop_reason reason)
{
    static const enum metric_id counter[] = {[DROPPED_OLDEST] = METRIC_DROPPED_OLDEST,
                                             [DROPPED_NEWEST] = METRIC_DROPPED_NEWEST,
                                             [DROPPED_DRAIN] = METRIC_DROPPED_DRAIN,
                                             [DROPPED_RATE] = METRIC_DROPPED_RATE};
    struct metrics *m = c->ws->server->metrics;
    item->dropped = true;
    c->refused++;
    metric_add(m, counter[reason], 1);
    out_dropped(c, item->seq, reason);
    if (item->kind == ITEM_PACKET) {
        connection_submit(c, item);
        return;
    }
    metric_add(m, METRIC_FRAMES_LIVE_DROPPED, 1);
    item_free(item);
}

/* Lets the held frame go, credit or not: something must come after it. */
static void release_held(struct connection *c)
{
    struct item *item = c->held;
    c->held = NULL;
    if (item)
        connection_submit(c, item);
}

/* Empties the packet decoder, and the next packet begins anew. At the end of all frames what it
 * keeps comes out; else a picture that is shown earlier may have been on its way, so none is
 * applied. */
static void flush_decoder(struct connection *c)
{
    if (!c->packets)
        return;
    struct item *item = item_new(c->session, ITEM_PACKET);
    if (!item)
        return; /* the next codec or the stream's end closes it */
    item->seq = -1;
    item->dropped = true;
    item->forget = c->closing != CLOSE_END;
    connection_submit(c, item);
}

/* What has become of an item, for a client that is there. */
static void tell(struct connection *c, struct item *item)
{
    bool overload = item->error == ERR_BUSY && c->drop != DROP_NONE;
    if (item->dropped) /* told already */
        return;
    if (item->empty || overload) {
        connection_credit(c);
        out_dropped(c, item->seq,
                    overload                                ? DROPPED_OVERLOAD
                    : c->closing && c->closing != CLOSE_END ? DROPPED_DRAIN
                                                            : DROPPED_EMPTY);
    } else if (item->error) {
        out_error(c, item);
    } else {
        out_answer(c, item);
    }
}

static void free_connection(struct connection *c)
{
    session_unref(c->session);
    free(c);
}

void connection_item(struct connection *c, struct item *item)
{
    c->outstanding--;
    if (c->wsi && !c->said_bye)
        tell(c, item);
    item_free(item);
    if (c->wsi)
        connection_update(c);
    else if (c->outstanding == 0)
        free_connection(c);
}

/* ---- reset, hand-over ---------------------------------------------------------------------------
 */

/* NULL: no memory. */
static struct command *new_command(struct connection *c, enum command_kind kind)
{
    struct ws_reset *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->owner = c;
    r->command.kind = kind;
    r->command.session = session_ref(c->session);
    r->command.done = ws_take_reset;
    c->outstanding++;
    return &r->command;
}

void connection_reset(struct connection *c)
{
    release_held(c);
    struct command *command = new_command(c, COMMAND_RESET);
    if (command) {
        workers_command(c->ws->server->workers, command);
        return;
    }
    err_set(ERR_NOMEM, "no memory for a command");
    connection_fail(c, LWS_CLOSE_STATUS_UNEXPECTED_CONDITION);
}

/* Another replica shall go on with the stream: the state goes first, then we say bye. */
static bool hands_over(const struct connection *c)
{
    return c->ws->server->handover && c->open && !c->handed &&
           (c->closing == CLOSE_DRAIN || c->wanted);
}

static void hand_over(struct connection *c)
{
    struct command *command = new_command(c, COMMAND_LEAVE);
    c->handed = true;
    if (command)
        handover_leave(c->ws->server->handover, command);
    else
        connection_update(c);
}

void connection_reset_done(struct connection *c, const struct command *command)
{
    c->outstanding--;
    if (!c->wsi) {
        if (c->outstanding == 0)
            free_connection(c);
        return;
    }
    if (c->said_bye)
        return;
    if (command->kind == COMMAND_LEAVE)
        ; /* bye follows, and says the same whether it is in the store or not */
    else if (command->error)
        out_json(c, json_pack("{s:s, s:n, s:o}", "type", "error", "seq", "problem",
                              describe_problem(command->error, command->error_text, NULL)));
    else
        out_json(c, json_pack("{s:s}", "type", "reset"));
    connection_update(c);
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static void say_bye(struct connection *c)
{
    out_json(c, json_pack("{s:s, s:s}", "type", "bye", "reason", c->bye));
    c->said_bye = true;
}

void connection_close(struct connection *c, int code, const char *reason, bool now)
{
    if (c->said_bye || (c->closing && !now))
        return;
    c->closing = code;
    c->bye = reason;
    release_held(c);
    flush_decoder(c);
    if (now)
        say_bye(c);
    else
        connection_update(c);
}

/* The reason of a close frame must be UTF-8, and may quote what is not, or end within a character.
 */
static void set_fault(struct connection *c, const char *text)
{
    snprintf(c->fault, sizeof c->fault, "%s", text);
    json_t *good = describe_text(c->fault); /* as long as it was */
    if (good)
        snprintf(c->fault, sizeof c->fault, "%s", json_string_value(good));
    json_decref(good);
}

void connection_fail(struct connection *c, int code)
{
    if (c->said_bye)
        return;
    set_fault(c, err_text());
    log_event(LOG_INFO, "ws_failed", "stream=%s code=%d error=%s", c->session->id, code,
              log_text(c->fault));
    c->closing = code;
    c->said_bye = true;
    buf_free(&c->message);
    out_clear(c);
    lws_callback_on_writable(c->wsi);
}

/* Whether to read on. */
static void update_flow(struct connection *c)
{
    int limit = connection_limit(c);
    bool flood = c->refused >= REFUSED_MAX && c->in_flight >= limit;
    bool stop =
        !c->open || flood || c->outstanding > limit + MORE_OUTSTANDING || c->out_count > OUT_MAX;
    if (stop == c->stopped)
        return;
    c->stopped = stop;
    lws_rx_flow_control(c->wsi, !stop);
}

void connection_update(struct connection *c)
{
    if (c->said_bye)
        return;
    if (c->held && c->in_flight < connection_limit(c))
        release_held(c);
    if (!c->closing || c->outstanding > 0)
        update_flow(c);
    else if (hands_over(c))
        hand_over(c);
    else
        say_bye(c);
}

void connection_lost(struct connection *c)
{
    struct ws *w = c->ws;
    log_event(LOG_INFO, "ws_closed", "stream=%s received=%llu answered=%llu", c->session->id,
              (unsigned long long)c->received, (unsigned long long)c->answered);
    c->wsi = NULL;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    w->count--;
    metric_add(w->server->metrics, METRIC_WS_CONNECTIONS, -1);
    if (c->counted)
        address_leave(w->addresses, &c->client);
    session_detach(c->session, c);
    item_free(c->held);
    c->held = NULL;
    out_clear(c);
    buf_free(&c->message);
    flush_decoder(c);
    if (c->outstanding == 0)
        free_connection(c);
}
