#include "tests/load/stream.h"

#include "proto/message.h"

#include <stdio.h>
#include <string.h>

/* Once of each kind it is told at once. */
static void count_error(const struct stream *s, const char *kind, const char *more)
{
    struct load *l = s->load;
    json_int_t before = json_integer_value(json_object_get(l->errors, kind));
    if (before == 0)
        fprintf(stderr, "stream_load: stream %d: %s: %s\n", s->number, kind, more);
    json_object_set_new(l->errors, kind, json_integer(before + 1));
}

/* ---- frames out ---------------------------------------------------------------------------------
 */

static void cannot_send(struct stream *s)
{
    count_error(s, "cannot send", "");
    s->open = false;
}

static void send_frame(struct stream *s, int64_t now)
{
    struct load *l = s->load;
    const struct buf *image = &l->clip.image[s->next_image];
    uint8_t *message = l->sending + LWS_PRE;
    const struct frame_message f = {
        .kind = MESSAGE_IMAGE, .seq = s->seq, .pts = l->o.rate > 0 ? s->due : now};
    message_write_frame(&f, message);
    memcpy(message + FRAME_HEADER, image->data, image->len);
    s->place[s->seq++ % CREDIT_MAX] = (uint8_t)s->next_image;
    s->next_image = (s->next_image + 1) % l->clip.images;
    s->turn--;
    s->due += l->o.rate > 0 ? (int64_t)(1e6 / l->o.rate) : 0;
    s->left -= s->left > 0;
    s->in_flight++;
    s->sent++;
    if (lws_write(s->wsi, message, FRAME_HEADER + image->len, LWS_WRITE_BINARY) < 0)
        cannot_send(s);
}

static void take_turn(struct stream *s)
{
    struct load *l = s->load;
    s->turn = s->next_turn;
    s->next_turn = l->clip.images;
}

static void send_reset(struct stream *s)
{
    struct load *l = s->load;
    static const char reset[] = "{\"type\":\"reset\"}";
    memcpy(l->sending + LWS_PRE, reset, sizeof reset - 1);
    s->next_image = 0;
    take_turn(s);
    s->resets++;
    if (lws_write(s->wsi, l->sending + LWS_PRE, sizeof reset - 1, LWS_WRITE_TEXT) < 0)
        cannot_send(s);
}

/* Sends what may be sent now, one at a time, or sets the timer. */
static void on_writable(struct stream *s)
{
    struct load *l = s->load;
    int64_t now = load_now_us();
    if (!s->open || l->stopping || s->left == 0 || (!l->o.flood && s->in_flight >= l->o.credit))
        return;
    if (l->o.rate > 0 && now < s->due) {
        lws_set_timer_usecs(s->wsi, s->due - now);
        return;
    }
    if (l->o.masks && s->turn == 0)
        send_reset(s);
    else
        send_frame(s, now);
    lws_callback_on_writable(s->wsi);
}

/* ---- messages in --------------------------------------------------------------------------------
 */

static void settle(struct stream *s)
{
    struct load *l = s->load;
    if (l->o.frames && s->left == 0 && s->in_flight == 0)
        l->settled++;
    lws_callback_on_writable(s->wsi);
}

static void check_answer(struct stream *s, const struct answer_message *a)
{
    struct load *l = s->load;
    if (a->seq <= s->last || a->seq >= s->seq) {
        count_error(s, "answer out of order", "");
        return;
    }
    s->last = a->seq;
    if (!l->o.masks || a->seq < s->unsure)
        return;
    int place = s->place[a->seq % CREDIT_MAX];
    const struct buf *mask = &l->clip.mask[place];
    if (a->from_zero != (place == 0))
        count_error(s, "wrong state", a->from_zero ? "it is new" : "it was not reset");
    if (a->none || a->format != l->o.format || a->len != mask->len ||
        memcmp(a->payload, mask->data, a->len) != 0)
        count_error(s, "wrong mask", "");
    else
        l->masks_right++;
}

static void take_answer(struct stream *s)
{
    struct load *l = s->load;
    struct answer_message a;
    int64_t now = load_now_us();
    if (message_parse_answer(s->message.data, s->message.len, &a)) {
        count_error(s, "no answer", err_text());
        return;
    }
    s->in_flight--;
    check_answer(s, &a);
    if (l->o.frames || (now >= l->from && now < l->to)) {
        s->answered++;
        samples_add(&l->latency, now - a.pts);
        samples_add(&l->stage[0], a.decode_us);
        samples_add(&l->stage[1], a.queue_us);
        samples_add(&l->stage[2], a.compute_us);
        samples_add(&l->stage[3], a.encode_us);
        if (l->parts)
            l->part[(int)((double)(now - l->from) / (l->o.every * 1e6))] = l->latency.count;
    }
    settle(s);
}

/* A frame had no effect on the state: masks of those that are on their way are anybody's guess. */
static void begin_anew(struct stream *s)
{
    s->turn = 0;
    s->unsure = s->seq;
}

/* A frame, or the stream, was refused. */
static void take_error(struct stream *s, const json_t *m)
{
    const json_t *problem = json_object_get(m, "problem");
    const char *type = json_string_value(json_object_get(problem, "type"));
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    bool frame = json_is_integer(json_object_get(m, "seq"));
    char kind[96];
    snprintf(kind, sizeof kind, "%s %s", frame ? "frame" : "stream",
             type && strrchr(type, '/') ? strrchr(type, '/') + 1 : "without a problem");
    count_error(s, kind, detail ? detail : "");
    if (!frame)
        return;
    s->failed++;
    s->in_flight--;
    begin_anew(s);
    settle(s);
}

static void take_text(struct stream *s)
{
    struct load *l = s->load;
    json_t *m = json_loadb((const char *)s->message.data, s->message.len, 0, NULL);
    const char *type = json_string_value(json_object_get(m, "type"));
    const char *reason = json_string_value(json_object_get(m, "reason"));
    if (!type) {
        count_error(s, "not a message", (const char *)s->message.data);
    } else if (strcmp(type, "hello") == 0) {
        s->last = json_integer_value(json_object_get(m, "last_seq"));
        s->seq = s->last + 1;
        if (s->seq == 0) /* else it was there before, and has a state */
            take_turn(s);
        l->connecting--;
        l->connected++;
    } else if (strcmp(type, "dropped") == 0) {
        size_t count = json_array_size(json_object_get(m, "seq"));
        s->dropped += (int64_t)count;
        s->in_flight -= (int)count;
        begin_anew(s);
    } else if (strcmp(type, "error") == 0) {
        take_error(s, m);
    } else if (strcmp(type, "reset") == 0) {
        s->resets--;
    } else if (strcmp(type, "bye") == 0) {
        snprintf(s->bye, sizeof s->bye, "%s", reason ? reason : "");
        s->open = false;
    } else {
        count_error(s, "unexpected message", type);
    }
    json_decref(m);
}

/* A message comes in pieces. */
static void on_receive(struct stream *s, const void *data, size_t len)
{
    struct load *l = s->load;
    if (buf_append(&s->message, data, len))
        load_fail(l, "out of", "memory");
    else if (!lws_is_final_fragment(s->wsi))
        return;
    else if (lws_frame_is_binary(s->wsi))
        take_answer(s);
    else
        take_text(s);
    s->message.len = 0;
}

/* Whoever waits for this stream would wait for ever, so that only a run by the clock goes on. */
static void on_closed(struct stream *s)
{
    struct load *l = s->load;
    char kind[64];
    s->open = false;
    if (l->over)
        return;
    snprintf(kind, sizeof kind, "closed: %s", s->bye[0] ? s->bye : "without a word");
    count_error(s, kind, "");
    if (l->o.frames || l->connected < l->o.streams)
        load_fail(l, "the daemon closed", "a stream");
}

int stream_on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct stream *s = lws_get_opaque_user_data(wsi);
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_RECEIVE:
        on_receive(s, in, len);
        return 0;
    case LWS_CALLBACK_TIMER:
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        on_writable(s);
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        load_fail(s->load, "no connection:", in ? in : "");
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        on_closed(s);
        return 0;
    default:
        return 0;
    }
}

/* ---- the beginning ------------------------------------------------------------------------------
 */

void stream_connect(struct load *l, int number)
{
    struct stream *s = &l->stream[number];
    char path[256];
    int image = number * 7 % l->clip.images; /* where this one is, and its neighbour is not */
    *s = (struct stream){.load = l,
                         .number = number,
                         .next_image = l->o.masks ? 0 : image,
                         .next_turn = image + 1,
                         .left = l->o.frames ? l->o.frames : -1};
    snprintf(path, sizeof path, "/v1/streams/%s-%d/ws?credit=%d&format=%s%s", l->o.prefix, number,
             l->o.flood ? CREDIT_MAX : l->o.credit, mask_format_name(l->o.format),
             l->o.flood ? "&drop=newest" : "");
    const struct lws_client_connect_info info = {.context = l->context,
                                                 .address = "127.0.0.1",
                                                 .host = l->o.ca ? "localhost" : "127.0.0.1",
                                                 .ssl_connection = l->o.ca ? LCCSCF_USE_SSL : 0,
                                                 .alpn = "http/1.1",
                                                 .port = l->o.port,
                                                 .path = path,
                                                 .protocol = "tv3s.v1",
                                                 .pwsi = &s->wsi,
                                                 .opaque_user_data = s};
    if (!lws_client_connect_via_info(&info))
        load_fail(l, "no connection to", path);
}

void stream_begin(struct stream *s, int64_t due)
{
    s->due = due;
    s->open = true;
    lws_callback_on_writable(s->wsi);
}
