/* A decoding process on a device, as the daemon takes it, when it is anybody's: where its pictures
 * may be, what it may not say, and how long their memory lives. */
#include "sandbox/link.h"
#include "sandbox/video.h"

#include "tests/unit/fake_device_memory.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { W = 16, H = 8, SLOT = 512, AHEAD = 4, HELD = 2, SLOTS = AHEAD + HELD };

/* ---- a child that says what it is told ----------------------------------------------------------
 */

struct rig {
    struct video *video;
    int child; /* its end */
    struct frame frame;
    char why[256]; /* went */
    int wents;
};

static void went(void *rig, const char *who, const char *why)
{
    struct rig *r = rig;
    (void)who;
    r->wents++;
    snprintf(r->why, sizeof r->why, "%s", why ? why : "well");
}

static const struct child_order on_device = {.kind = CHILD_VIDEO,
                                             .slots = AHEAD,
                                             .slot_bytes = 4096,
                                             .max_pixels = 64 * 64,
                                             .nv12 = true,
                                             .device = 1};

static void say(const struct rig *r, struct wire_reply reply)
{
    assert_int_equal(send(r->child, &reply, sizeof reply, 0), sizeof reply);
}

static void say_opened(const struct rig *r)
{
    say(r, (struct wire_reply){.what = TELL_OPENED, .tb_num = 1, .tb_den = 25});
}

static struct wire_reply room(int width, int height)
{
    return (struct wire_reply){.what = TELL_ROOM, .width = width, .height = height};
}

static struct wire_reply frame(int64_t pts, bool there)
{
    return (struct wire_reply){.what = TELL_FRAME,
                               .width = W,
                               .height = H,
                               .pts = pts,
                               .layout = PIXELS_NV12,
                               .nvdec = 1,
                               .on_device = there};
}

/* With all words of the child's at once: the daemon reads one after the other. */
static struct rig begin(const struct child_order *order)
{
    struct rig r = {0};
    int pair[2];
    struct link *l;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    r.child = pair[1];
    say_opened(&r);
    assert_int_equal(link_to(order, pair[0], &l), ERR_OK);
    const struct video_device device = {.index = 0, .pictures = HELD};
    assert_int_equal(video_over(l, &(struct decode_options){0}, &device, &r.video), ERR_OK);
    return r;
}

static void end(struct rig *r)
{
    video_close(r->video);
    frame_free(&r->frame);
    close(r->child);
}

static enum err next(struct rig *r)
{
    bool over = true;
    enum err e = video_next(r->video, &r->frame, &over);
    assert_true(e || !over);
    return e;
}

static struct wire_request heard(const struct rig *r)
{
    struct wire_request q;
    assert_int_equal(recv(r->child, &q, sizeof q, MSG_DONTWAIT), sizeof q);
    return q;
}

static int heard_slot(const struct rig *r)
{
    struct wire_request q = heard(r);
    assert_int_equal(q.what, ASK_TAKEN);
    return q.slot;
}

/* ---- where pictures are -------------------------------------------------------------------------
 */

static void every_frame_has_a_slot_that_nobody_has(void **state)
{
    (void)state;
    struct rig r = begin(&on_device);
    struct device_picture *held[HELD];
    say(&r, room(W, H));
    for (int i = 0; i < 12; i++)
        say(&r, frame(i, true));
    uint8_t *base = NULL;
    int of[16] = {0, 1, 2, 3}; /* the slot of each frame */
    for (int i = 0; i < 12; i++) {
        if (i >= HELD)
            device_picture_release(held[i % HELD]);
        assert_int_equal(next(&r), ERR_OK);
        if (i == 0) {
            struct wire_request q = heard(&r);
            assert_true(q.what == ASK_DEVICE && q.slots == SLOTS && q.slot_bytes == SLOT);
            base = r.frame.device_pixels;
        }
        assert_ptr_equal(r.frame.device_pixels, base + of[i] * SLOT);
        of[i + AHEAD] = heard_slot(&r);
        held[i % HELD] = video_take_picture(r.video);
        assert_non_null(held[i % HELD]);
        assert_null(video_take_picture(r.video));
        assert_ptr_equal(device_picture_pixels(held[i % HELD]), r.frame.device_pixels);
        for (int k = i + 1; k <= i + AHEAD; k++) /* what may be made now goes over none of these */
            for (int h = 0; h < HELD && h <= i; h++)
                assert_int_not_equal(of[k], device_picture_slot(held[h]));
    }
    for (int h = 0; h < HELD; h++)
        device_picture_release(held[h]);
    assert_string_equal(video_place(r.video, NULL), "nvdec");
    end(&r);
    assert_int_equal(fake_memories, 0);
}

static void pictures_that_nobody_takes_are_given_back(void **state)
{
    (void)state;
    struct rig r = begin(&on_device);
    say(&r, room(W, H));
    for (int i = 0; i < 40; i++)
        say(&r, frame(i, true));
    for (int i = 0; i < 40; i++) {
        assert_int_equal(next(&r), ERR_OK);
        if (i == 0)
            heard(&r);
        assert_true(heard_slot(&r) >= 0);
    }
    end(&r);
    assert_int_equal(fake_memories, 0);
}

static void who_holds_more_than_was_said_gets_pictures_by_the_host(void **state)
{
    (void)state;
    enum { MORE = SLOTS };
    struct rig r = begin(&on_device);
    struct device_picture *held[MORE];
    say(&r, room(W, H));
    for (int i = 0; i < MORE; i++) {
        say(&r, frame(i, true));
        assert_int_equal(next(&r), ERR_OK);
        if (i == 0)
            heard(&r);
        held[i] = video_take_picture(r.video);
        assert_int_equal(heard_slot(&r), i + AHEAD < SLOTS ? i + AHEAD : -1);
    }
    say(&r, frame(MORE, false));
    assert_int_equal(next(&r), ERR_OK);
    assert_null(r.frame.device_pixels);
    assert_non_null(r.frame.pixels);
    assert_int_equal(heard_slot(&r), -1);
    device_picture_release(held[3]);
    say(&r, frame(MORE + 1, false));
    assert_int_equal(next(&r), ERR_OK);
    assert_int_equal(heard_slot(&r), 3);
    for (int i = 0; i < MORE; i++)
        if (i != 3)
            device_picture_release(held[i]);
    end(&r);
    assert_int_equal(fake_memories, 0);
}

static void a_picture_outlives_its_video(void **state)
{
    (void)state;
    struct rig r = begin(&on_device);
    say(&r, room(W, H));
    say(&r, frame(0, true));
    assert_int_equal(next(&r), ERR_OK);
    struct device_picture *picture = video_take_picture(r.video);
    uint8_t pixels[W * H * 3 / 2];
    memset(device_picture_pixels(picture), 7, sizeof pixels);
    end(&r);
    assert_int_equal(fake_memories, 1);
    assert_int_equal(device_picture_read(picture, pixels, sizeof pixels), ERR_OK);
    assert_true(pixels[0] == 7 && pixels[sizeof pixels - 1] == 7);
    device_picture_release(picture);
    assert_int_equal(fake_memories, 0);
}

static void without_memory_pictures_come_by_the_host(void **state)
{
    (void)state;
    const char *why;
    struct rig r = begin(&on_device);
    fake_memory_limit = 1000;
    say(&r, room(W, H));
    say(&r, frame(0, false));
    assert_int_equal(next(&r), ERR_OK);
    fake_memory_limit = 0;
    struct wire_request q = heard(&r);
    assert_true(q.what == ASK_DEVICE && q.slots == 0);
    assert_int_equal(heard_slot(&r), -1);
    assert_string_equal(video_place(r.video, &why), "nvdec");
    assert_string_equal(why, "pictures come by the host: the device has no 3072 bytes");
    say(&r, frame(1, true));
    assert_int_equal(next(&r), ERR_DECODER); /* where it has no slot */
    end(&r);
}

static void what_is_too_large_for_a_video_gets_no_memory(void **state)
{
    (void)state;
    const char *why;
    struct child_order large = on_device;
    large.max_pixels = INT64_C(1) << 30;
    struct rig r = begin(&large);
    say(&r, room(16384, 16384));
    say(&r, (struct wire_reply){.what = TELL_END});
    bool over = false;
    assert_int_equal(video_next(r.video, &r.frame, &over), ERR_OK);
    assert_true(over);
    assert_int_equal(heard(&r).slots, 0);
    assert_string_equal(video_place(r.video, &why), "cpu");
    end(&r);
    assert_int_equal(fake_memories, 0);
}

/* ---- what it may not say ------------------------------------------------------------------------
 */

static struct wire_reply change(int what)
{
    struct wire_reply f = frame(1, true);
    switch (what) {
    case 0:
        f.layout = PIXELS_RGB24;
        break;
    case 1:
        f.nvdec = 0;
        break;
    case 2:
        f.on_device = 2;
        break;
    case 3:
        f.on_device = -1;
        break;
    case 4: /* larger than its slot */
        f.width = 2 * W;
        f.height = 2 * H;
        break;
    case 5:
        f.width = W + 1;
        break;
    case 6:
        f.nvdec = 3;
        break;
    case 7: /* a second time */
        return room(W, H);
    case 8:
        f.pts = 0;
        break;
    default: /* not a lie */
        break;
    }
    return f;
}

static void assert_lie(struct rig *r, const char *what, int which)
{
    enum err e = next(r);
    if (e != ERR_DECODER || !strstr(err_text(), "makes no sense"))
        fail_msg("%s %d: %d %s", what, which, (int)e, e ? err_text() : "");
}

static void lies_end_it(void **state)
{
    (void)state;
    enum { LIES = 9 };
    for (int i = 0; i <= LIES; i++) {
        struct rig r = begin(&on_device);
        say(&r, room(W, H));
        say(&r, frame(0, true));
        say(&r, change(i));
        assert_int_equal(next(&r), ERR_OK);
        if (i < LIES)
            assert_lie(&r, "lie", i);
        else
            assert_int_equal(next(&r), ERR_OK);
        end(&r);
        assert_int_equal(fake_memories, 0);
    }
}

static void there_is_no_slot_before_there_is_memory(void **state)
{
    (void)state;
    struct rig r = begin(&on_device);
    say(&r, frame(0, true));
    assert_lie(&r, "no memory", 0);
    end(&r);
}

static void room_is_for_pictures_that_may_be(void **state)
{
    (void)state;
    static const int size[][2] = {{0, 8}, {16, -8}, {17, 8}, {16, 6}, {66, 64}, {1 << 30, 1 << 30}};
    for (int i = 0; i < (int)(sizeof size / sizeof *size); i++) {
        struct rig r = begin(&on_device);
        say(&r, room(size[i][0], size[i][1]));
        assert_lie(&r, "room", i);
        end(&r);
    }
}

static void a_child_without_a_device_speaks_of_none(void **state)
{
    (void)state;
    struct child_order plain = on_device;
    plain.device = 0;
    for (int i = 0; i < 4; i++) {
        struct rig r = begin(&plain);
        if (i == 0)
            say(&r, room(W, H));
        else if (i == 1)
            say(&r, frame(0, true));
        else if (i == 2)
            say(&r, frame(0, false)); /* by nvdec */
        else
            say(&r, (struct wire_reply){.what = TELL_FAILED, .error = ERR_DEVICE});
        assert_lie(&r, "no device", i);
        end(&r);
    }
}

/* ---- its end ------------------------------------------------------------------------------------
 */

/* There is no sandbox for another child here: that is tests/test_nvdec_daemon.py's. */
static void its_failure_is_told_once_with_the_reason(void **state)
{
    (void)state;
    static const enum err how[] = {ERR_OK, ERR_DEVICE, ERR_NOMEM}; /* ERR_OK: it dies */
    for (int i = 0; i < 3; i++) {
        struct rig r = {0};
        struct link *l;
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        r.child = pair[1];
        const struct video_device device = {.pictures = HELD, .went = went, .ctx = &r};
        struct wire_reply failed = {.what = TELL_FAILED, .error = how[i], .text = "no reason"};
        say_opened(&r);
        say(&r, room(W, H));
        say(&r, frame(0, true));
        if (how[i])
            say(&r, failed);
        shutdown(r.child, SHUT_WR);
        assert_int_equal(link_to(&on_device, pair[0], &l), ERR_OK);
        assert_int_equal(video_over(l, &(struct decode_options){0}, &device, &r.video), ERR_OK);
        assert_int_equal(next(&r), ERR_OK);
        assert_int_equal(next(&r), ERR_DECODER);
        assert_int_equal(r.wents, 1);
        assert_string_equal(r.why, how[i] ? "no reason" : "the decoder was killed");
        end(&r);
        assert_int_equal(r.wents, 1);
        assert_int_equal(fake_memories, 0);
    }
}

static void frames_from_there_are_told_when_all_went_well(void **state)
{
    (void)state;
    for (int frames = 0; frames < 2; frames++) {
        struct rig r = {0};
        struct link *l;
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        r.child = pair[1];
        const struct video_device device = {.pictures = HELD, .went = went, .ctx = &r};
        say_opened(&r);
        say(&r, frame(0, false));
        assert_int_equal(link_to(&on_device, pair[0], &l), ERR_OK);
        assert_int_equal(video_over(l, &(struct decode_options){0}, &device, &r.video), ERR_OK);
        if (frames)
            assert_int_equal(next(&r), ERR_OK);
        end(&r);
        assert_int_equal(r.wents, frames);
        assert_string_equal(r.why, frames ? "well" : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_frame_has_a_slot_that_nobody_has),
        cmocka_unit_test(pictures_that_nobody_takes_are_given_back),
        cmocka_unit_test(who_holds_more_than_was_said_gets_pictures_by_the_host),
        cmocka_unit_test(a_picture_outlives_its_video),
        cmocka_unit_test(without_memory_pictures_come_by_the_host),
        cmocka_unit_test(what_is_too_large_for_a_video_gets_no_memory),
        cmocka_unit_test(lies_end_it),
        cmocka_unit_test(there_is_no_slot_before_there_is_memory),
        cmocka_unit_test(room_is_for_pictures_that_may_be),
        cmocka_unit_test(a_child_without_a_device_speaks_of_none),
        cmocka_unit_test(its_failure_is_told_once_with_the_reason),
        cmocka_unit_test(frames_from_there_are_told_when_all_went_well),
    };
    return cmocka_run_group_tests_name("video_device", tests, NULL, NULL);
}
