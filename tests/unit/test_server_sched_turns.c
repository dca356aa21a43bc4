/* The scheduler's choice: who is next. One worker, so that frames are delivered in the order of
 * their batches. */
#include "server/sched_parts.h"
#include "tests/unit/server_rig.h"

enum { W = 64, H = 48 };

static int setup(void **state)
{
    static struct rig r;
    rig_open(&r);
    r.config.workers = 1;
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    rig_close(*state);
    return 0;
}

static int place_of(struct rig *r, const struct session *s, int64_t seq)
{
    int place = 0;
    rig_find(r, s, seq, &place);
    return place;
}

static void a_flood_delays_nobody(void **state)
{
    struct rig *r = *state;
    r->config.batch_max = 1;
    rig_start(r);
    struct session *flood = rig_live(r, "flood"), *calm = rig_live(r, "calm");
    rig_hold(r);
    for (int t = 0; t < 12; t++)
        rig_submit(r, flood, 1, t, W, H);
    for (int t = 0; t < 3; t++)
        rig_submit(r, calm, 2, t, W, H);
    rig_let_go(r);
    rig_wait(r, 15);
    for (int t = 0; t < 3; t++)
        assert_true(place_of(r, calm, t) <= 2 * t + 1);
    for (int t = 1; t < 12; t++)
        assert_true(place_of(r, flood, t) > place_of(r, flood, t - 1));
    session_unref(flood);
    session_unref(calm);
}

/* f0 c0, f1, f2; then c1, f3, f4, f5. */
static void a_stream_that_was_served_since_leaves_the_batch_to_one_that_keeps_up(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *flood = rig_live(r, "flood"), *calm = rig_live(r, "calm");
    for (int t = 0; t < 2; t++) {
        rig_hold(r);
        for (int i = 0; i < 3; i++)
            rig_submit(r, flood, 1, 3 * t + i, W, H);
        rig_submit(r, calm, 2, t, W, H);
        rig_let_go(r);
        rig_wait(r, 4 * (t + 1));
        assert_true(metric_get(r->metrics, METRIC_BATCHES) == (t == 0 ? 3 : 7));
    }
    assert_int_equal(place_of(r, calm, 1), 4);
    session_unref(flood);
    session_unref(calm);
}

static void streams_with_a_backlog_share_batches_with_those_served_as_lately(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *flood = rig_live(r, "flood"), *calm = rig_live(r, "calm");
    for (int t = 0; t < 3; t++) {
        rig_hold(r);
        rig_submit(r, flood, 1, 2 * t, W, H);
        rig_submit(r, calm, 2, t, W, H);
        rig_let_go(r);
        rig_wait(r, 2 * (t + 1));
        assert_true(metric_get(r->metrics, METRIC_BATCHES) == t + 1);
    }
    rig_hold(r);
    rig_submit(r, flood, 1, 6, W, H);
    rig_submit(r, flood, 1, 7, W, H);
    rig_submit(r, calm, 2, 3, W, H);
    rig_let_go(r);
    rig_wait(r, 9);
    assert_true(metric_get(r->metrics, METRIC_BATCHES) == 5);
    assert_true(place_of(r, flood, 6) < 8);
    session_unref(flood);
    session_unref(calm);
}

/* All of the engine's time of late, in ten frames. The engine stands at the gate, so its fields are
 * ours. */
static void set_share(struct rig *r, struct session *s, double seconds)
{
    s->share = (struct share){.seconds = seconds, .last = seconds / 10, .at = clock_ns()};
    r->sched->lane[0].busy = s->share;
}

/* Its frames took a day, so it would wait for as long. */
static void a_stream_that_took_more_than_its_share_waits_while_others_are_served(void **state)
{
    struct rig *r = *state;
    enum { OTHERS = 3, FRAMES = 5 };
    struct session *s[OTHERS], *flood;
    rig_start(r);
    flood = rig_live(r, "flood");
    rig_submit(r, flood, 9, 0, W, H);
    rig_wait(r, 1);
    for (int i = 0; i < OTHERS; i++) {
        char id[2] = {(char)('a' + i), 0};
        s[i] = rig_live(r, id);
        rig_submit(r, s[i], i, 0, W, H);
    }
    rig_wait(r, 1 + OTHERS);
    rig_hold(r);
    rig_submit(r, flood, 9, 1, W, H);
    rig_submit(r, flood, 9, 2, W, H);
    for (int t = 1; t < FRAMES; t++)
        for (int i = 0; i < OTHERS; i++)
            rig_submit(r, s[i], i, t, W, H);
    set_share(r, flood, 1e6);
    rig_let_go(r);
    rig_wait(r, 1 + OTHERS * FRAMES);
    rig_hold(r); /* nothing is left but the two */
    assert_int_equal(r->count, 1 + OTHERS * FRAMES);
    set_share(r, flood, 0);
    rig_let_go(r);
    rig_wait(r, 3 + OTHERS * FRAMES);
    assert_true(place_of(r, flood, 1) < place_of(r, flood, 2));
    for (int i = 0; i < OTHERS; i++)
        session_unref(s[i]);
    session_unref(flood);
}

static void streams_that_do_not_fit_in_one_batch_take_turns(void **state)
{
    struct rig *r = *state;
    enum { STREAMS = 3, FRAMES = 4 };
    struct session *s[STREAMS];
    r->config.batch_max = 2;
    rig_start(r);
    rig_hold(r);
    for (int i = 0; i < STREAMS; i++) {
        char id[2] = {(char)('a' + i), 0};
        s[i] = rig_live(r, id);
        for (int t = 0; t < FRAMES; t++)
            rig_submit(r, s[i], i, t, W, H);
    }
    rig_let_go(r);
    rig_wait(r, STREAMS * FRAMES);
    for (int i = 0; i < STREAMS; i++) {
        for (int t = 0; t < FRAMES; t++)
            assert_int_equal(place_of(r, s[i], t), STREAMS * t + i);
        session_unref(s[i]);
    }
}

static void single_images_are_together_one_stream(void **state)
{
    struct rig *r = *state;
    enum { SINGLES = 10 };
    r->config.batch_max = 1;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_hold(r);
    for (int i = 0; i < SINGLES; i++) {
        char id[4];
        snprintf(id, sizeof id, "%d", i);
        struct session *one = rig_session(r, SESSION_SINGLE, id, "one", MODE_FRAME);
        rig_submit(r, one, 9, i, W, H);
        session_unref(one);
    }
    for (int t = 0; t < 3; t++)
        rig_submit(r, s, 1, t, W, H);
    rig_let_go(r);
    rig_wait(r, SINGLES + 3);
    for (int t = 0; t < 3; t++)
        assert_true(place_of(r, s, t) <= 2 * t + 2);
    session_unref(s);
}

static void live_frames_go_before_uploads(void **state)
{
    struct rig *r = *state;
    r->config.batch_max = 2;
    rig_start(r);
    struct session *job = rig_session(r, SESSION_UPLOAD, "job", "one", MODE_STREAM);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    rig_hold(r);
    for (int t = 0; t < 4; t++)
        rig_submit(r, job, 3, t, W, H);
    rig_submit(r, a, 1, 0, W, H);
    rig_submit(r, b, 2, 0, W, H);
    rig_submit(r, a, 1, 1, W, H);
    rig_let_go(r);
    rig_wait(r, 7);
    assert_true(place_of(r, a, 0) <= 1 && place_of(r, b, 0) <= 1);
    assert_true(place_of(r, a, 1) <= 3); /* the rest of its batch is the job's */
    assert_true(place_of(r, job, 0) <= 3);
    session_unref(job);
    session_unref(a);
    session_unref(b);
}

/* Batches of two: a0 b0, a1 b1, x0 a2, b2 a3, b3 a4, y0 b4, a5 b5, ... */
static void uploads_get_a_run_now_and_then_where_live_frames_fill_the_batches(void **state)
{
    struct rig *r = *state;
    enum { FRAMES = 9 };
    r->config.batch_max = 2;
    r->config.upload_patience = 2;
    rig_start(r);
    struct session *x = rig_session(r, SESSION_UPLOAD, "x", "one", MODE_STREAM);
    struct session *y = rig_session(r, SESSION_UPLOAD, "y", "one", MODE_STREAM);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    rig_hold(r);
    for (int t = 0; t < FRAMES; t++) {
        rig_submit(r, a, 1, t, W, H);
        rig_submit(r, b, 2, t, W, H);
    }
    for (int t = 0; t < 3; t++) {
        rig_submit(r, x, 3, t, W, H);
        rig_submit(r, y, 4, t, W, H);
    }
    rig_let_go(r);
    rig_wait(r, 2 * FRAMES + 6);
    assert_int_equal(place_of(r, x, 0), 4);
    assert_int_equal(place_of(r, y, 0), 10); /* the uploads take turns */
    assert_int_equal(place_of(r, x, 1), 16);
    for (int t = 1; t < FRAMES; t++) {
        int ahead = place_of(r, a, t) - place_of(r, b, t);
        assert_true(ahead >= -2 && ahead <= 2); /* and what they take, both streams give */
    }
    session_unref(x);
    session_unref(y);
    session_unref(a);
    session_unref(b);
}

static void patience_without_end_leaves_uploads_what_room_there_is(void **state)
{
    struct rig *r = *state;
    r->config.batch_max = 1;
    r->config.upload_patience = 1000000;
    rig_start(r);
    struct session *job = rig_session(r, SESSION_UPLOAD, "job", "one", MODE_STREAM);
    struct session *a = rig_live(r, "a");
    rig_hold(r);
    rig_submit(r, job, 3, 0, W, H);
    for (int t = 0; t < 6; t++)
        rig_submit(r, a, 1, t, W, H);
    rig_let_go(r);
    rig_wait(r, 7);
    assert_int_equal(place_of(r, job, 0), 6);
    session_unref(job);
    session_unref(a);
}

static void models_take_turns(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *a = rig_session(r, SESSION_LIVE, "a", "one", MODE_STREAM);
    struct session *b = rig_session(r, SESSION_LIVE, "b", "two", MODE_STREAM);
    rig_hold(r);
    for (int t = 0; t < 4; t++)
        rig_submit(r, a, 1, t, W, H);
    for (int t = 0; t < 4; t++)
        rig_submit(r, b, 1, t, W, H);
    rig_let_go(r);
    rig_wait(r, 8);
    for (int i = 1; i < 8; i++)
        assert_ptr_not_equal(r->delivered[i]->session, r->delivered[i - 1]->session);
    session_unref(a);
    session_unref(b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_flood_delays_nobody),
        TEST(a_stream_that_was_served_since_leaves_the_batch_to_one_that_keeps_up),
        TEST(streams_with_a_backlog_share_batches_with_those_served_as_lately),
        TEST(a_stream_that_took_more_than_its_share_waits_while_others_are_served),
        TEST(streams_that_do_not_fit_in_one_batch_take_turns),
        TEST(single_images_are_together_one_stream),
        TEST(live_frames_go_before_uploads),
        TEST(uploads_get_a_run_now_and_then_where_live_frames_fill_the_batches),
        TEST(patience_without_end_leaves_uploads_what_room_there_is),
        TEST(models_take_turns),
    };
    return cmocka_run_group_tests_name("server sched turns", tests, NULL, NULL);
}
