#include "sandbox/images.h"

#include "sandbox/link.h"

#include "base/try.h"
#include "media/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct images {
    struct image_reader *here; /* without a sandbox */
    struct sandbox *sandbox;
    struct sandbox_wait wait;
    struct link *link; /* NULL before the first image, and after a death */
    char who[64];
};

enum err images_open(struct sandbox *s, const char *who, const struct sandbox_wait *wait,
                     struct images **out)
{
    struct images *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return err_set(ERR_NOMEM, "no memory for an image decoder");
    m->sandbox = s;
    m->wait = *wait;
    snprintf(m->who, sizeof m->who, "%s", who);
    enum err e = s ? ERR_OK : image_reader_open(&m->here);
    if (e)
        free(m);
    else
        *out = m;
    return e;
}

void images_close(struct images *m)
{
    if (!m)
        return;
    image_reader_close(m->here);
    link_close(m->link);
    free(m);
}

static enum err decode_here(struct images *m, struct buf *input, uint64_t max_pixels,
                            struct frame *f)
{
    TRY(buf_reserve(input, IMAGE_PADDING));
    memset(input->data + input->len, 0, IMAGE_PADDING);
    return image_read(m->here, input->data, input->len, max_pixels, f);
}

static enum err ask(struct images *m, const struct buf *input, bool nv12)
{
    const struct child_order order = {.kind = CHILD_IMAGES};
    const struct wire_request q = {.what = ASK_DECODE, .len = input->len, .nv12 = nv12};
    if (!m->link)
        TRY(link_open(m->sandbox, &order, -1, m->who, &m->wait, NULL, &m->link));
    if (input->len + IMAGE_PADDING > link_order(m->link)->input_bytes)
        return err_set(ERR_LIMIT, "an image of %zu bytes", input->len);
    memcpy(link_input(m->link), input->data, input->len);
    return link_send(m->link, &q);
}

static void drop_dead(struct images *m)
{
    if (m->link && link_dead(m->link)) {
        link_close(m->link);
        m->link = NULL;
    }
}

enum err images_decode(struct images *m, struct buf *input, uint64_t max_pixels, struct frame *f)
{
    struct wire_reply r;
    if (!m->sandbox)
        return decode_here(m, input, max_pixels, f);
    enum err e = ask(m, input, f->takes_nv12);
    if (e == ERR_DECODER) { /* it was dead before it saw the image */
        drop_dead(m);
        e = ask(m, input, f->takes_nv12);
    }
    if (!e) {
        int64_t left = link_patience(m->link);
        e = link_receive(m->link, &m->wait, &left, &r);
        if (!e && r.what == TELL_FAILED)
            e = link_error(m->link, r.error, &r);
        else if (!e && r.what == TELL_IMAGE)
            e = link_take(m->link, 0, &r, f);
        else if (!e)
            e = link_lied(m->link);
    }
    drop_dead(m);
    return e;
}
