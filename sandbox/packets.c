#include "sandbox/packets.h"

#include "sandbox/link.h"

#include "base/try.h"
#include "media/image.h"

#include <stdlib.h>
#include <string.h>

/* packet.c keeps 42 packets at most, and a flush is one more. A child that keeps more lies. */
enum { INSIDE_MAX = 48 };

struct packets {
    struct packet_decoder *here; /* without a sandbox; then that is all */
    struct link *link;
    struct sandbox_wait wait;
    enum packet_codec codec;
    int64_t number; /* of the last packet, as the child counts */
    struct {
        int64_t number;
        void *tag;
    } inside[INSIDE_MAX]; /* whose tags have not come back */
    int count, held;
    bool nv12;
    struct wire_reply next; /* not yet handed out: an outcome, and whether there are more */
    bool fetched;           /* next is valid */
};

/* ---- opening ------------------------------------------------------------------------------------
 */

/* The codec's name is known and it runs, or not. */
static enum err open_over(struct packets *p)
{
    struct wire_reply r;
    int64_t left = link_patience(p->link);
    TRY(link_receive(p->link, &p->wait, &left, &r));
    if (r.what == TELL_FAILED)
        return link_error(p->link, r.error, &r);
    return r.what == TELL_READY ? ERR_OK : link_lied(p->link);
}

/* By the link, which it takes; without one, here. */
static enum err start(struct link *l, enum packet_codec codec, int64_t max_pixels, bool nv12,
                      const struct sandbox_wait *wait, struct packets **out)
{
    struct packets *p = *out = link_holder(l, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    p->link = l;
    p->codec = codec;
    p->nv12 = nv12;
    p->wait = *wait;
    enum err e = l ? open_over(p) : packet_decoder_open(codec, max_pixels, &p->here);
    if (e) {
        packets_close(p, NULL);
        *out = NULL;
    }
    return e;
}

enum err packets_over(struct link *l, enum packet_codec codec, const struct sandbox_wait *wait,
                      struct packets **out)
{
    return start(l, codec, 0, link_order(l)->nv12, wait, out);
}

enum err packets_open(struct sandbox *s, enum packet_codec codec, int64_t max_pixels, bool nv12,
                      const char *who, const struct sandbox_wait *wait, struct packets **out)
{
    const struct child_order order = {.kind = CHILD_PACKETS, .codec = (int32_t)codec, .nv12 = nv12};
    struct link *l = NULL;
    *out = NULL;
    if (s)
        TRY(link_open(s, &order, -1, who, wait, NULL, &l));
    return start(l, codec, max_pixels, nv12, wait, out);
}

void packets_wait(struct packets *p, const struct sandbox_wait *wait)
{
    p->wait = *wait;
}

void packets_close(struct packets *p, void (*give_back)(void *tag))
{
    if (!p)
        return;
    packet_decoder_close(p->here, give_back);
    for (int i = 0; give_back && i < p->count; i++)
        give_back(p->inside[i].tag);
    link_close(p->link);
    free(p);
}

enum packet_codec packets_codec(const struct packets *p)
{
    return p->here ? packet_decoder_codec(p->here) : p->codec;
}

int packets_held(const struct packets *p)
{
    return p->here ? packet_decoder_held(p->here) : p->held;
}

bool packets_dead(const struct packets *p)
{
    return p->link && link_dead(p->link);
}

/* ---- packets in ---------------------------------------------------------------------------------
 */

static void *take_out(struct packets *p, int i)
{
    void *tag = p->inside[i].tag;
    p->count--;
    memmove(&p->inside[i], &p->inside[i + 1], (size_t)(p->count - i) * sizeof p->inside[0]);
    return tag;
}

/* The next result into p->next. */
static enum err fetch(struct packets *p)
{
    int64_t left = link_patience(p->link);
    TRY(link_receive(p->link, &p->wait, &left, &p->next));
    if (p->next.what != TELL_RESULT)
        return link_lied(p->link);
    p->held = p->next.held < p->count ? p->next.held : p->count;
    p->fetched = true;
    return ERR_OK;
}

static enum err send_in(struct packets *p, const void *data, size_t len)
{
    const struct wire_request q = {.what = ASK_PACKET, .len = len};
    if (len + IMAGE_PADDING > link_order(p->link)->input_bytes)
        return err_set(ERR_LIMIT, "a packet of %zu bytes", len);
    if (len)
        memcpy(link_input(p->link), data, len);
    TRY(link_send(p->link, &q));
    p->number++;
    return fetch(p);
}

enum err packets_send(struct packets *p, const void *data, size_t len, void *tag)
{
    if (p->here)
        return packet_decoder_send(p->here, data, len, tag);
    if (p->count == INSIDE_MAX)
        return link_lied(p->link);
    p->inside[p->count].number = p->number + 1;
    p->inside[p->count++].tag = tag;
    enum err e = send_in(p, data, len);
    if (!e && p->next.sent)
        e = link_error(p->link, p->next.sent, &p->next);
    if (e) /* it is the last, whatever else is inside */
        take_out(p, p->count - 1);
    return e;
}

/* ---- pictures out -------------------------------------------------------------------------------
 */

static enum packet_result fail_first(struct packets *p, void **tag, enum err *error)
{
    if (p->count == 0)
        return PACKET_MORE;
    *tag = take_out(p, 0);
    *error = link_gone(p->link);
    return PACKET_FAILED;
}

/* Only the first reply to a packet may have no result in it: so there is an end to them. */
static enum err fetch_next(struct packets *p)
{
    const struct wire_request next = {.what = ASK_NEXT};
    TRY(link_send(p->link, &next));
    TRY(fetch(p));
    return p->next.outcome == OUTCOME_NONE ? link_lied(p->link) : ERR_OK;
}

/* p->next to the caller. PACKET_MORE: the child lied, or has no result. */
static enum packet_result hand_out(struct packets *p, struct frame *f, void **tag, enum err *error)
{
    const struct wire_reply *r = &p->next;
    int i = 0;
    p->fetched = false;
    if (r->outcome == OUTCOME_NONE)
        return PACKET_MORE;
    while (i < p->count && p->inside[i].number != r->value)
        i++;
    if (i == p->count) {
        link_lied(p->link);
        return PACKET_MORE;
    }
    *tag = take_out(p, i);
    if (r->outcome == OUTCOME_EMPTY)
        return PACKET_EMPTY;
    *error = r->outcome == OUTCOME_FRAME ? link_take(p->link, 0, r, f)
                                         : link_error(p->link, r->error, r);
    return *error ? PACKET_FAILED : PACKET_FRAME;
}

enum packet_result packets_next(struct packets *p, struct frame *f, void **tag, enum err *error)
{
    f->takes_nv12 = p->nv12;
    if (p->here)
        return packet_decoder_next(p->here, f, tag, error);
    *error = ERR_OK;
    while (!link_dead(p->link)) {
        if (!p->fetched && p->next.more <= 0)
            return PACKET_MORE;
        if (!p->fetched && fetch_next(p))
            break;
        enum packet_result r = hand_out(p, f, tag, error);
        if (r != PACKET_MORE)
            return r;
    }
    return fail_first(p, tag, error);
}
