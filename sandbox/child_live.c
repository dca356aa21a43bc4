/* Decoders of live frames: image files, and packets of one stream. */
#include "sandbox/child.h"

#include "media/image.h"
#include "media/packet.h"

#include <string.h>
#include <unistd.h>

/* The daemon has counted the bytes; there is room for the padding behind them. */
static const uint8_t *input_of(const struct child *c, const struct wire_request *q)
{
    if (q->len + IMAGE_PADDING > c->order->input_bytes)
        _exit(1);
    memset(c->memory + q->len, 0, IMAGE_PADDING);
    return c->memory;
}

_Noreturn void child_images(const struct child *c)
{
    struct image_reader *reader;
    enum err e = image_reader_open(&reader);
    for (;;) {
        struct wire_request q;
        struct frame f = child_slot(c, 0);
        child_hear(&q);
        f.takes_nv12 = q.nv12;
        if (!e)
            e = image_read(reader, input_of(c, &q), (size_t)q.len, (uint64_t)c->order->max_pixels,
                           &f);
        struct wire_reply image = {.what = TELL_IMAGE};
        child_set_picture(&image, &f);
        if (e)
            child_tell_error(e);
        else
            child_tell(&image);
        e = reader ? ERR_OK : e;
    }
}

/* The next result in the slot and in *r. A packet's tag is its number, from 1. */
static void take_result(const struct child *c, struct packet_decoder *d, struct wire_reply *r)
{
    struct frame f = child_slot(c, 0);
    void *tag = NULL;
    enum err e;
    static const enum wire_outcome outcome[] = {[PACKET_MORE] = OUTCOME_NONE,
                                                [PACKET_FRAME] = OUTCOME_FRAME,
                                                [PACKET_EMPTY] = OUTCOME_EMPTY,
                                                [PACKET_FAILED] = OUTCOME_FAILED};
    r->outcome = outcome[packet_decoder_next(d, &f, &tag, &e)];
    r->value = (int64_t)(uintptr_t)tag;
    child_set_picture(r, &f);
    r->error = e;
    if (e)
        child_set_text(r, err_text());
    r->more = packet_decoder_ready(d);
    r->held = packet_decoder_held(d);
}

/* What a packet brought. An error of its own goes first, alone, since there is one text. */
static void tell_results(const struct child *c, struct packet_decoder *d, enum err sent)
{
    struct wire_reply r = {.what = TELL_RESULT, .sent = sent, .more = packet_decoder_ready(d)};
    struct wire_request q;
    r.held = packet_decoder_held(d);
    if (sent)
        child_set_text(&r, err_text());
    else
        take_result(c, d, &r);
    child_tell(&r);
    while (r.more > 0) {
        child_hear(&q);
        r = (struct wire_reply){.what = TELL_RESULT};
        take_result(c, d, &r);
        child_tell(&r);
    }
}

_Noreturn void child_packets(const struct child *c)
{
    struct packet_decoder *d;
    enum err e = packet_decoder_open((enum packet_codec)c->order->codec, c->order->max_pixels, &d);
    struct wire_reply opened = {.what = TELL_READY};
    if (e) {
        child_tell_error(e);
        _exit(0);
    }
    child_tell(&opened);
    for (uintptr_t number = 1;; number++) {
        struct wire_request q;
        child_hear(&q);
        const uint8_t *data = input_of(c, &q);
        tell_results(c, d, packet_decoder_send(d, data, (size_t)q.len, (void *)number));
    }
}
