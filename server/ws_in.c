/* Messages in. A message may come in fragments, and a fragment in pieces; it is put together in
 * c->message, which for a frame becomes the item's input without a copy of its own. */
#include "server/ws.h"

#include "server/config.h"
#include "proto/message.h"

#include <string.h>

enum { CONTROL_MAX = 64 << 10 };
enum { MALFORMED = 1002, AGAINST_POLICY = 1008, TOO_LARGE = 1009, NO_MEMORY = 1011 };

/* ---- frames -------------------------------------------------------------------------------------
 */

/* An item of this message; the bytes of c->message go with it. NULL: no memory. */
static struct item *make_item(struct connection *c, const struct frame_message *f)
{
    struct item *item = item_new(c->session, (enum item_kind)f->kind);
    if (!item)
        return NULL;
    item->codec = (enum item_codec)f->codec;
    item->key_frame = f->key_frame;
    item->silent = f->silent;
    item->seq = f->seq;
    item->pts = f->pts;
    item->width = f->width;
    item->height = f->height;
    item->format = c->format;
    memmove(c->message.data, f->payload, f->len);
    item->input = c->message;
    item->input.len = f->len;
    c->message = (struct buf){0};
    return item;
}

/* Credit and the drop policy. */
static int admit(struct connection *c, struct item *item)
{
    if (c->closing) {
        connection_drop(c, item, DROPPED_DRAIN);
        return 0;
    }
    if (owner_take_frame(c->session->params.owner)) {
        connection_drop(c, item, DROPPED_RATE);
        return 0;
    }
    if (c->in_flight < connection_limit(c) && !c->held) {
        connection_submit(c, item);
        return 0;
    }
    switch (c->drop) {
    case DROP_OLDEST:
        if (c->held)
            connection_drop(c, c->held, DROPPED_OLDEST);
        c->held = item;
        return 0;
    case DROP_NEWEST:
        connection_drop(c, item, DROPPED_NEWEST);
        return 0;
    case DROP_NONE:
        break;
    }
    item_free(item);
    err_set(ERR_BUSY, "more than %d frames in flight", connection_limit(c));
    return AGAINST_POLICY;
}

static int take_frame(struct connection *c)
{
    struct frame_message f;
    if (c->ended) {
        err_set(ERR_FORMAT, "a frame after the end");
        return MALFORMED;
    }
    if (message_parse_frame(c->message.data, c->message.len, &f))
        return MALFORMED;
    int64_t seq = session_number(c->session, f.seq, f.kind == MESSAGE_PACKET);
    if (seq < 0) {
        err_set(ERR_FORMAT, "the sequence number %lld does not ascend", (long long)f.seq);
        return MALFORMED;
    }
    f.seq = seq;
    struct item *item = make_item(c, &f);
    if (!item) {
        err_set(ERR_NOMEM, "no memory for a frame");
        return NO_MEMORY;
    }
    c->received++;
    return admit(c, item);
}

/* ---- control ------------------------------------------------------------------------------------
 */

static int take_control(struct connection *c)
{
    struct control_message m;
    if (message_parse_control((const char *)c->message.data, c->message.len, &m))
        return MALFORMED;
    switch (m.kind) {
    case CONTROL_RESET:
        connection_reset(c);
        break;
    case CONTROL_STATS:
        out_stats(c);
        break;
    case CONTROL_FORMAT:
        c->format = m.format;
        out_json(c,
                 json_pack("{s:s, s:s}", "type", "format", "format", mask_format_name(m.format)));
        break;
    case CONTROL_END:
        c->ended = true;
        connection_close(c, CLOSE_END, "end", false);
        break;
    }
    return 0;
}

/* ---- messages -----------------------------------------------------------------------------------
 */

/* What the fragment has announced and not sent yet. Deflated bytes tell nothing for certain. */
static size_t announced(const struct connection *c)
{
    return c->ws->server->config->deflate ? 0 : lws_remaining_packet_payload(c->wsi);
}

/* A close code with err_text(), or 0. */
static int take_bytes(struct connection *c, const void *data, size_t len)
{
    bool binary = lws_frame_is_binary(c->wsi);
    uint64_t most = binary ? c->ws->server->config->max_image : CONTROL_MAX;
    if (len + announced(c) > most - c->message.len) {
        err_set(ERR_LIMIT, "a message of more than %llu bytes", (unsigned long long)most);
        return TOO_LARGE;
    }
    if (buf_append(&c->message, data, len))
        return NO_MEMORY;
    if (!lws_is_final_fragment(c->wsi))
        return 0;
    int code = binary ? take_frame(c) : take_control(c);
    buf_free(&c->message); /* an idle connection keeps no memory for messages */
    return code;
}

void in_receive(struct connection *c, const void *data, size_t len)
{
    lws_validity_confirmed(c->wsi);
    if (c->said_bye)
        return; /* it has not read our close yet */
    int code = take_bytes(c, data, len);
    if (code)
        connection_fail(c, code);
    else
        connection_update(c);
}
