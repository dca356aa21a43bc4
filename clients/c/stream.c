/* A live stream: frames out as credit allows, events in, and a connection that is made again.
 *
 * `flying` are the frames that are sent or to be sent and neither answered nor dropped, in order of
 * their numbers; those from `unsent` on are not written yet. While reconnects are allowed each
 * keeps its message. After a loss the server's hello says which frame is the last in its state:
 * what is flying up to it lost its answer, what is beyond is sent again, so that no frame is
 * applied twice and none is passed over. Packets of a codec are the exception: the server's decoder
 * went with the connection, so they are dropped and a key frame has to come.
 *
 * A caller that rewinds (options) does all that itself: after a loss nothing is flying.
 *
 * A server that goes on from an older frame is sent what was answered since, if that is kept
 * (stream_kept.c). Else the stream goes on from another state, which is told as TV3S_RESTARTED. */
#include "clients/c/stream_parts.h"
#include "proto/message.h"

#include <stdlib.h>
#include <string.h>

enum tv3s_result tv3s_stream_open(struct tv3s *c, const char *id,
                                  const struct tv3s_stream_options *o, struct tv3s_stream **out)
{
    struct tv3s_stream *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return client_fail(c, TV3S_MEMORY, "no memory");
    *s = (struct tv3s_stream){.c = c, .id = strdup(id), .o = *o, .first_seq = -1, .forgot = -1};
    s->events_end = &s->events;
    const char **texts[] = {&s->o.params.model, &s->o.params.mode, &s->o.params.format,
                            &s->o.params.resize};
    bool whole = s->id != NULL;
    for (int i = 0; i < 4; i++) {
        bool given = *texts[i] != NULL;
        *texts[i] = given ? strdup(*texts[i]) : NULL;
        whole &= !given || *texts[i];
    }
    enum tv3s_result r = whole ? stream_connect(s) : client_fail(c, TV3S_MEMORY, "no memory");
    if (r)
        tv3s_stream_close(s);
    else
        *out = s;
    return r;
}

void tv3s_stream_close(struct tv3s_stream *s)
{
    if (!s)
        return;
    socket_close(s->socket);
    while (s->count)
        stream_flying_remove(s, s->count - 1);
    free(s->flying);
    stream_kept_free(s);
    json_decref(s->refused);
    stream_event_free(s->given);
    for (struct event *e = s->events, *next; e; e = next) {
        next = e->next;
        stream_event_free(e);
    }
    free((char *)s->o.params.model);
    free((char *)s->o.params.mode);
    free((char *)s->o.params.format);
    free((char *)s->o.params.resize);
    free(s->id);
    free(s);
}

int64_t tv3s_stream_last_seq(const struct tv3s_stream *s)
{
    return s->first_seq - 1;
}

bool tv3s_stream_resumed(const struct tv3s_stream *s)
{
    return s->resumed;
}

int tv3s_stream_in_flight(const struct tv3s_stream *s)
{
    return (int)s->count;
}

int64_t tv3s_stream_stored(const struct tv3s_stream *s)
{
    return s->stored;
}

bool tv3s_stream_wants_key_frame(const struct tv3s_stream *s)
{
    return s->wants_key_frame;
}

static enum tv3s_result compose(struct tv3s_stream *s, const struct tv3s_frame *f)
{
    int64_t seq = f->numbered ? f->seq : s->next_seq;
    const struct frame_message m = {.kind = (enum message_kind)f->kind,
                                    .codec = (enum message_codec)f->codec,
                                    .key_frame = f->key_frame,
                                    .silent = f->silent,
                                    .seq = seq,
                                    .pts = f->pts,
                                    .width = f->width,
                                    .height = f->height};
    struct flying *flying = stream_flying_add(s);
    uint8_t header[FRAME_HEADER];
    message_write_frame(&m, header);
    if (!flying)
        return client_fail(s->c, TV3S_MEMORY, "no memory");
    flying->seq = seq;
    flying->packet = f->kind == TV3S_PACKET;
    enum err e = buf_append(&flying->message, header, sizeof header);
    e = e ? e : buf_append(&flying->message, f->data, f->len);
    if (e) {
        stream_flying_remove(s, s->count - 1);
        return client_err(s->c, e);
    }
    s->next_seq = seq < s->next_seq ? s->next_seq : seq + 1;
    return TV3S_OK;
}

enum tv3s_result tv3s_send(struct tv3s_stream *s, const struct tv3s_frame *f, int64_t *seq)
{
    int64_t until = stream_now_us() + s->c->timeout_ms * 1000;
    bool wait = s->o.drop == TV3S_DROP_NONE;
    enum tv3s_result r = s->failed;
    while (!r && !s->ended && !s->rewound && wait && (int)s->count >= s->credit)
        r = stream_pump(s, until);
    if (!r && s->rewound)
        return TV3S_AGAIN;
    if (!r && (s->ended || s->ending))
        r = client_fail(s->c, TV3S_ARGUMENT, "stream %s has ended", s->id);
    if (!r && f->kind == TV3S_PACKET && s->wants_key_frame && !f->key_frame) {
        stream_event(s, TV3S_DROPPED, s->next_seq, "lost");
        if (seq)
            *seq = s->next_seq;
        s->next_seq++;
        return s->failed;
    }
    if (!r)
        r = compose(s, f);
    if (r)
        return r;
    s->wants_key_frame &= f->kind != TV3S_PACKET;
    if (seq)
        *seq = s->flying[s->count - 1].seq;
    if (!s->dead)
        socket_want_write(s->socket);
    while (!r && !s->ended && s->unsent < s->count)
        r = stream_pump(s, until);
    return r;
}

enum tv3s_result tv3s_next(struct tv3s_stream *s, int timeout_ms, struct tv3s_event *out)
{
    int64_t ms = timeout_ms < 0 ? s->c->timeout_ms : timeout_ms;
    int64_t until = stream_now_us() + ms * 1000;
    enum tv3s_result r = TV3S_OK;
    stream_event_free(s->given);
    s->given = NULL;
    while (!s->events && !s->ended && !r)
        r = stream_pump(s, until);
    if (!s->events) {
        *out = (struct tv3s_event){.kind = TV3S_ENDED, .seq = s->next_seq - 1, .text = s->bye};
        return r;
    }
    s->given = s->events;
    s->events = s->given->next;
    if (!s->events)
        s->events_end = &s->events;
    *out = s->given->is;
    s->rewound &= out->kind != TV3S_RECONNECTED;
    return TV3S_OK;
}

enum tv3s_result tv3s_end(struct tv3s_stream *s)
{
    int64_t until = stream_now_us() + s->c->timeout_ms * 1000;
    enum tv3s_result r = s->failed;
    s->ending = !s->rewound;
    if (!s->dead)
        socket_want_write(s->socket);
    while (!r && !s->ended && !s->end_written && !s->rewound)
        r = stream_pump(s, until);
    return !r && s->rewound ? TV3S_AGAIN : r;
}
