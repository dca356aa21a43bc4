/* What the server says on a stream's socket, as events and frames that are not in flight any more;
 * and, when the socket takes one, the next message out. */
#include "clients/c/stream_parts.h"
#include "proto/message.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- events -------------------------------------------------------------------------------------
 */

void stream_event_free(struct event *e)
{
    if (e)
        buf_free(&e->data);
    free(e);
}

/* `bytes` are the mask of an answer, else the text; copied. */
static void add_event(struct tv3s_stream *s, struct tv3s_event is, const void *bytes, size_t len)
{
    struct event *e = calloc(1, sizeof *e);
    if (!e || buf_append(&e->data, bytes, len)) {
        stream_event_free(e);
        s->failed = client_fail(s->c, TV3S_MEMORY, "no memory");
        return;
    }
    e->is = is;
    if (is.kind == TV3S_ANSWER) {
        e->is.mask = is.mask ? e->data.data : NULL;
        e->is.mask_len = is.mask ? len : 0;
        e->is.text = "";
    } else {
        e->is.text = (const char *)e->data.data;
    }
    *s->events_end = e;
    s->events_end = &e->next;
}

void stream_event(struct tv3s_stream *s, enum tv3s_event_kind kind, int64_t seq, const char *text)
{
    add_event(s, (struct tv3s_event){.kind = kind, .seq = seq}, text, strlen(text));
}

/* ---- frames in flight ---------------------------------------------------------------------------
 */

struct flying *stream_flying_add(struct tv3s_stream *s)
{
    if (s->count == s->room) {
        size_t room = s->room ? 2 * s->room : 16;
        struct flying *more = realloc(s->flying, room * sizeof *more);
        if (!more)
            return NULL;
        s->flying = more;
        s->room = room;
    }
    s->flying[s->count] = (struct flying){0};
    return &s->flying[s->count++];
}

void stream_flying_remove(struct tv3s_stream *s, size_t i)
{
    buf_free(&s->flying[i].message);
    s->count--;
    s->unsent -= i < s->unsent;
    memmove(&s->flying[i], &s->flying[i + 1], (s->count - i) * sizeof *s->flying);
}

/* Whether frame `seq` was in flight; it is not any more. `out`, or NULL, gets it. */
static bool settle(struct tv3s_stream *s, int64_t seq, struct flying *out)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->flying[i].seq == seq) {
            if (out) {
                *out = s->flying[i];
                s->flying[i].message = (struct buf){0};
            }
            stream_flying_remove(s, i);
            if (s->unsent < s->count)
                socket_want_write(s->socket); /* which may have waited for the credit */
            return true;
        }
    return false;
}

/* ---- what the server says -----------------------------------------------------------------------
 */

static void broken(struct tv3s_stream *s, enum tv3s_result r, const char *text)
{
    if (!s->failed)
        s->failed = client_fail(s->c, r, "%s", text);
}

static void on_answer(struct tv3s_stream *s, const void *data, size_t len)
{
    struct answer_message a;
    struct flying f;
    if (message_parse_answer(data, len, &a)) {
        broken(s, TV3S_PROTOCOL, err_text());
        return;
    }
    if (!settle(s, a.seq, &f))
        return; /* told as dropped or unanswered before */
    bool again = f.again;
    stream_keep(s, &f);
    s->failures = 0;
    if (again)
        return; /* it had its answer */
    add_event(s,
              (struct tv3s_event){.kind = TV3S_ANSWER,
                                  .seq = a.seq,
                                  .pts = a.pts,
                                  .width = a.width,
                                  .height = a.height,
                                  .from_zero = a.from_zero,
                                  .decode_us = a.decode_us,
                                  .queue_us = a.queue_us,
                                  .compute_us = a.compute_us,
                                  .encode_us = a.encode_us,
                                  .mask = a.none ? NULL : a.payload},
              a.payload, a.none ? 0 : a.len);
}

static void on_dropped(struct tv3s_stream *s, const json_t *m)
{
    const char *reason = json_string_value(json_object_get(m, "reason"));
    size_t i;
    json_t *seq;
    if (reason && strcmp(reason, "drain") == 0 && s->o.reconnects > 0)
        return; /* they go to the server that follows */
    json_array_foreach(json_object_get(m, "seq"), i,
                       seq) if (settle(s, json_integer_value(seq), NULL))
        stream_event(s, TV3S_DROPPED, json_integer_value(seq), reason ? reason : "");
}

static void on_error(struct tv3s_stream *s, const json_t *m)
{
    int64_t seq = json_integer_value(json_object_get(m, "seq"));
    const json_t *problem = json_object_get(m, "problem");
    if (!s->greeted) {
        s->refused = json_deep_copy(problem);
        return;
    }
    if (settle(s, seq, NULL))
        stream_event(s, TV3S_FAILED_FRAME, seq, client_problem_name(problem));
}

static void on_stored(struct tv3s_stream *s, const json_t *m)
{
    s->stored = json_integer_value(json_object_get(m, "seq"));
    stream_kept_forget(s, s->stored);
}

/* All that was sent after frame `last` is the caller's to send again. */
static void rewind_to(struct tv3s_stream *s, int64_t last)
{
    while (s->count > 0) {
        if (s->flying[0].seq <= last)
            stream_event(s, TV3S_UNANSWERED, s->flying[0].seq, "");
        stream_flying_remove(s, 0);
    }
    s->next_seq = last + 1;
    s->ending = false;
    s->rewound = true;
}

/* The first hello, or that of a connection made again. */
static void on_hello(struct tv3s_stream *s, const json_t *m)
{
    bool again = s->first_seq >= 0;
    int64_t last = json_integer_value(json_object_get(m, "last_seq"));
    s->greeted = true;
    s->stores = json_is_integer(json_object_get(m, "stored"));
    s->stored = s->stores ? json_integer_value(json_object_get(m, "stored")) : INT64_MAX;
    s->credit = (int)json_integer_value(json_object_get(m, "credit"));
    s->unsent = 0;
    s->end_written = false;
    if (!again) {
        s->resumed = json_is_true(json_object_get(m, "resumed"));
        s->first_seq = s->next_seq = last + 1;
        return;
    }
    stream_event(s, TV3S_RECONNECTED, last, "");
    if (s->o.rewinds) {
        rewind_to(s, last);
        return;
    }
    for (size_t i = 0; i < s->count;) {
        struct flying f = s->flying[i];
        if (f.seq > last && !f.packet) {
            i++;
            continue;
        }
        s->flying[i].message = (struct buf){0};
        stream_flying_remove(s, i);
        if (f.seq > last)
            stream_event(s, TV3S_DROPPED, f.seq, "lost");
        else if (!f.again)
            stream_event(s, TV3S_UNANSWERED, f.seq, "");
        s->wants_key_frame |= f.packet;
        if (f.seq <= last)
            stream_keep(s, &f);
        else
            buf_free(&f.message);
    }
    if (s->stores)
        stream_kept_forget(s, s->stored);
    int64_t next = s->count ? s->flying[0].seq : s->next_seq;
    if (!stream_kept_fly(s, last))
        stream_event(s, TV3S_RESTARTED, next, "");
}

static void on_text(struct tv3s_stream *s, const char *text, size_t len)
{
    json_t *m = json_loadb(text, len, 0, NULL);
    const char *type = json_string_value(json_object_get(m, "type"));
    const char *reason = json_string_value(json_object_get(m, "reason"));
    if (!type)
        broken(s, TV3S_PROTOCOL, "a text message is not JSON with a type");
    else if (strcmp(type, "hello") == 0)
        on_hello(s, m);
    else if (strcmp(type, "credit") == 0)
        s->credit = (int)json_integer_value(json_object_get(m, "credit"));
    else if (strcmp(type, "dropped") == 0)
        on_dropped(s, m);
    else if (strcmp(type, "error") == 0)
        on_error(s, m);
    else if (strcmp(type, "stored") == 0)
        on_stored(s, m);
    else if (strcmp(type, "restarted") == 0)
        stream_event(s, TV3S_RESTARTED, json_integer_value(json_object_get(m, "seq")), "");
    else if (strcmp(type, "bye") == 0)
        snprintf(s->bye, sizeof s->bye, "%s", reason ? reason : "");
    json_decref(m);
}

/* One message each time: the next frame, or at last the word that there are no more. */
static void on_writable(struct tv3s_stream *s)
{
    static const char end[] = "{\"type\":\"end\"}";
    enum tv3s_result r = TV3S_OK;
    if (s->greeted && s->unsent < s->count) {
        if (s->flying[0].again && (int)s->unsent >= s->credit)
            return; /* beyond the credit, until an answer comes */
        struct flying *f = &s->flying[s->unsent++];
        r = socket_write(s->socket, f->message.data, f->message.len, true);
        if (s->o.reconnects == 0 || s->o.rewinds || f->packet)
            buf_free(&f->message);
    } else if (s->greeted && s->ending && !s->end_written) {
        s->end_written = true;
        r = socket_write(s->socket, end, sizeof end - 1, false);
    } else {
        return;
    }
    if (r && r != TV3S_LOST)
        s->failed = r;
    socket_want_write(s->socket);
}

static void on_closed(struct tv3s_stream *s, const char *reason, size_t len, int code)
{
    static const char *const ends[] = {"end", "takeover", "deleted", "idle"};
    snprintf(s->lost, sizeof s->lost, "%.*s", (int)len, reason);
    s->lost_code = code;
    s->dead = true;
    for (int i = 0; i < 4; i++)
        s->ended |= strcmp(s->bye, ends[i]) == 0;
    if (s->ended)
        stream_event(s, TV3S_ENDED, s->next_seq - 1, s->bye);
}

void stream_on_socket(void *stream, enum socket_event event, const void *data, size_t len, int code)
{
    struct tv3s_stream *s = stream;
    switch (event) {
    case SOCKET_OPEN:
        break; /* hello follows */
    case SOCKET_TEXT:
        on_text(s, data, len);
        break;
    case SOCKET_BINARY:
        on_answer(s, data, len);
        break;
    case SOCKET_WRITABLE:
        on_writable(s);
        break;
    case SOCKET_CLOSED:
        on_closed(s, data, len, code);
        break;
    }
}
