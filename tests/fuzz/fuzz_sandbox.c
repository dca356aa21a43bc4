/* What a decoding process says, when it belongs to somebody else: the daemon's side of a video and
 * of a stream of packets, by a socket on which the input has been said.
 *
 * The first byte: 1 a stream in place of a video, 2 pictures may be NV12, 4 the video may be
 * decoded on a device. A message is a byte n and n bytes of a struct wire_reply, whose rest is
 * zero; above 200 the message has n - 200 bytes and no more. */
#include "sandbox/link.h"
#include "sandbox/packets.h"
#include "sandbox/video.h"

#include "tests/unit/fake_device_memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGES_MAX = 60, PACKETS = 12, SHORT = 200, HELD = 3 };

static void check(bool right)
{
    if (!right)
        abort();
}

/* Puts the messages on the socket; what is not read by then is lost. */
static void say(int fd, const uint8_t *data, size_t len)
{
    for (int i = 0; i < MESSAGES_MAX && len > 0; i++) {
        struct wire_reply r = {0};
        size_t n = data[0] > SHORT ? data[0] - SHORT : data[0];
        size_t sent = data[0] > SHORT ? n : sizeof r;
        n = n < len - 1 ? n : len - 1;
        memcpy(&r, data + 1, n);
        if (sent && send(fd, &r, sent, MSG_DONTWAIT) < 0)
            break;
        data += n + 1;
        len -= n + 1;
    }
    shutdown(fd, SHUT_WR);
}

static unsigned add_up(const struct frame *f, bool nv12)
{
    unsigned sum = 0;
    enum pixel_layout layout = f->format.layout;
    check(layout == PIXELS_RGB24 || (layout == PIXELS_NV12 && nv12));
    check(!f->device_pixels || layout == PIXELS_NV12);
    const uint8_t *pixels = f->device_pixels ? f->device_pixels : f->pixels;
    for (size_t i = 0; i < pixels_row(layout, f->width) * pixels_rows(layout, f->height); i++)
        sum += pixels[i];
    return sum;
}

static int64_t grow(void *ctx, int64_t offset)
{
    (void)ctx;
    return offset < INT64_MAX / 2 ? offset + 1000 : offset;
}

static void report(void *ctx, const char *text)
{
    (void)ctx;
    check(memchr(text, 0, WIRE_TEXT) != NULL);
}

static void watch(struct link *l, bool nv12, bool there)
{
    const struct decode_options o = {.max_frames = 40, .growing = grow, .report = report};
    const struct video_device device = {.pictures = HELD};
    struct device_picture *held[HELD] = {NULL};
    struct video *v;
    struct frame f = {0};
    bool end = false;
    int64_t last = INT64_MIN;
    if (video_over(l, &o, there ? &device : NULL, &v))
        return;
    check(video_info(v)->tb_den > 0 && video_info(v)->rate >= 0);
    while (video_next(v, &f, &end) == ERR_OK && !end) {
        check(there || !f.device_pixels);
        add_up(&f, nv12);
        check(f.pts > last && f.duration >= 0 && f.time == f.time);
        last = f.pts;
        device_picture_release(held[f.number % HELD]); /* held[] are three slots, or none */
        held[f.number % HELD] = f.number % 5 ? video_take_picture(v) : NULL;
        for (int i = 0; i < HELD; i++)
            for (int k = 0; k < i; k++)
                check(!held[i] || held[i] != held[k]);
    }
    check(video_corrupt(v) >= 0);
    frame_free(&f);
    video_close(v);
    for (int i = 0; i < HELD; i++)
        device_picture_release(held[i]);
    check(fake_memories == 0);
}

static int back[PACKETS + 1]; /* how often a tag came back */

static void give_back(void *tag)
{
    (*(int *)tag)++;
}

static void stream(struct link *l, bool nv12)
{
    const struct sandbox_wait wait = {0};
    struct packets *p;
    memset(back, 0, sizeof back);
    if (packets_over(l, PACKET_H264, &wait, &p))
        return;
    for (int i = 0; i < PACKETS; i++) {
        void *tag;
        enum err e;
        if (packets_send(p, "packet", i % 5 == 4 ? 0 : 6, &back[i]))
            back[i]++;
        for (;;) {
            struct frame f = {0};
            enum packet_result r = packets_next(p, &f, &tag, &e);
            if (r == PACKET_MORE)
                break;
            check((r == PACKET_FAILED) == (e != ERR_OK));
            if (r == PACKET_FRAME)
                add_up(&f, nv12);
            frame_free(&f);
            give_back(tag);
        }
        check(packets_held(p) >= 0 && packets_held(p) <= PACKETS);
    }
    packets_close(p, give_back);
    for (int i = 0; i < PACKETS; i++)
        check(back[i] == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct child_order order = {
        .kind = CHILD_VIDEO, .slots = 4, .slot_bytes = 4096, .max_pixels = 1320, .growing = true};
    struct link *l = NULL;
    int pair[2];
    if (len < 1 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
        return 0;
    if (data[0] & 1) {
        order.kind = CHILD_PACKETS;
        order.slots = 1;
        order.input_bytes = 4096;
    }
    order.nv12 = data[0] & 2;
    order.device = order.kind == CHILD_VIDEO && data[0] & 4 ? 1 : 0;
    say(pair[1], data + 1, len - 1);
    check(link_to(&order, pair[0], &l) == ERR_OK);
    if (order.kind == CHILD_VIDEO)
        watch(l, order.nv12, order.device);
    else
        stream(l, order.nv12);
    close(pair[1]);
    return 0;
}
