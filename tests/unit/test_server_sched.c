/* The scheduler with the real engine: what a stream gets does not depend on who else is there. */
#include "tests/unit/server_rig.h"

enum { W = 64, H = 48 };

static int setup(void **state)
{
    static struct rig r;
    rig_open(&r);
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    rig_close(*state);
    return 0;
}

/* What the engine says of frames first .. first + count - 1 of a clip, fed to a stream alone. */
static void expect(struct rig *r, const char *model, enum stream_mode mode, int seed, int first,
                   int count, int width, int height, uint8_t *labels)
{
    const struct engine_config ec = {.device = DEVICE_CPU, .dtype = DT_F32, .threads = 1};
    const struct stream_config sc = {.mode = mode};
    size_t pixels = (size_t)width * (size_t)height;
    struct served_model *m;
    struct engine *e;
    struct stream *s;
    uint8_t *rgb = malloc(pixels * 3);
    assert_int_equal(models_find(r->models, model, &m), ERR_OK);
    assert_int_equal(engine_open(m->model, &ec, &e), ERR_OK);
    assert_int_equal(stream_open(e, &sc, &s), ERR_OK);
    for (int t = 0; t < count; t++) {
        uint8_t *out = labels + (size_t)t * pixels;
        const struct image image = image_of_rgb24(rgb, width, height);
        const struct engine_run run = {s, 1, &image, &out, NULL};
        tiny_frame(rgb, width, height, seed, first + t);
        assert_int_equal(engine_step(e, &run, 1), ERR_OK);
    }
    stream_close(s);
    engine_close(e);
    free(rgb);
}

/* Delivered frames first .. first + count - 1 of a session are those of a stream alone. */
static void assert_masks(struct rig *r, const struct session *s, int seed, int first, int count,
                         int width, int height)
{
    size_t pixels = (size_t)width * (size_t)height;
    uint8_t *want = malloc(pixels * (size_t)count);
    expect(r, s->params.model->name, s->params.stream.mode, seed, first, count, width, height,
           want);
    for (int t = 0; t < count; t++) {
        const struct item *item = rig_find(r, s, first + t, NULL);
        if (item->error)
            fail_msg("frame %d of %s: %s", first + t, s->id, item->error_text);
        assert_int_equal(item->output.len, pixels);
        if (memcmp(item->output.data, want + (size_t)t * pixels, pixels) != 0)
            fail_msg("frame %d of %s has another mask", first + t, s->id);
    }
    free(want);
}

static void streams_that_share_batches_get_the_masks_of_streams_alone(void **state)
{
    struct rig *r = *state;
    enum { STREAMS = 4, FRAMES = 5 };
    static const int size[STREAMS][2] = {{64, 48}, {64, 48}, {96, 64}, {48, 80}};
    struct session *s[STREAMS];
    rig_start(r);
    for (int i = 0; i < STREAMS; i++) {
        char id[2] = {(char)('a' + i), 0};
        s[i] = rig_session(r, SESSION_LIVE, id, i == 1 ? "two" : "one", MODE_STREAM);
    }
    for (int t = 0; t < FRAMES; t++)
        for (int i = 0; i < STREAMS; i++)
            assert_int_equal(
                workers_decode(r->workers, rig_frame(r, s[i], i, t, size[i][0], size[i][1])),
                ERR_OK);
    rig_wait(r, STREAMS * FRAMES);
    for (int i = 0; i < STREAMS; i++) {
        assert_masks(r, s[i], i, 0, FRAMES, size[i][0], size[i][1]);
        assert_true(rig_find(r, s[i], 0, NULL)->from_zero);
        assert_false(rig_find(r, s[i], 1, NULL)->from_zero);
        assert_int_equal(s[i]->last_seq, FRAMES - 1);
        assert_int_equal(s[i]->frames, FRAMES);
        assert_true(s[i]->state_bytes > 0);
        session_unref(s[i]);
    }
    assert_true(metric_get(r->metrics, METRIC_FRAMES_LIVE_OK) == STREAMS * FRAMES);
    assert_true(metric_get(r->metrics, METRIC_BATCH_FRAMES) == STREAMS * FRAMES);
}

static void an_upload_goes_in_runs_and_comes_out_in_order(void **state)
{
    struct rig *r = *state;
    enum { FRAMES = 9 };
    rig_start(r);
    struct session *s = rig_session(r, SESSION_UPLOAD, "job", "one", MODE_STREAM);
    rig_hold(r);
    for (int t = 0; t < FRAMES; t++)
        rig_submit(r, s, 3, t, W, H);
    rig_let_go(r);
    rig_wait(r, FRAMES);
    for (int t = 0; t < FRAMES; t++)
        assert_int_equal(r->delivered[t]->seq, t);
    assert_masks(r, s, 3, 0, FRAMES, W, H);
    assert_true(metric_get(r->metrics, METRIC_BATCHES) == 3); /* half of job_window, 4 4 1 */
    session_unref(s);
}

static void other_modes_keep_no_state_and_say_so(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *frame = rig_session(r, SESSION_LIVE, "f", "one", MODE_FRAME);
    struct session *clip = rig_session(r, SESSION_LIVE, "c", "one", MODE_CLIP);
    for (int t = 0; t < 3; t++) {
        rig_submit(r, frame, 1, t, W, H);
        rig_submit(r, clip, 1, t, W, H);
    }
    rig_wait(r, 6);
    assert_masks(r, frame, 1, 0, 3, W, H);
    assert_masks(r, clip, 1, 0, 3, W, H);
    assert_true(rig_find(r, frame, 2, NULL)->from_zero);
    assert_false(rig_find(r, frame, 2, NULL)->restarted);
    assert_int_equal(frame->state_bytes, 0);
    session_unref(frame);
    session_unref(clip);
}

static void another_size_starts_anew_and_says_so(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_hold(r);
    for (int t = 0; t < 2; t++)
        rig_submit(r, s, 1, t, W, H);
    for (int t = 2; t < 4; t++)
        rig_submit(r, s, 1, t, 80, 64);
    rig_let_go(r);
    rig_wait(r, 4);
    assert_masks(r, s, 1, 0, 2, W, H);
    assert_masks(r, s, 1, 2, 2, 80, 64);
    assert_false(rig_find(r, s, 0, NULL)->restarted);
    assert_true(rig_find(r, s, 2, NULL)->restarted);
    assert_true(rig_find(r, s, 2, NULL)->from_zero);
    assert_false(rig_find(r, s, 3, NULL)->restarted);
    assert_int_equal(s->frame_width, 80);
    session_unref(s);
}

static void a_failing_frame_fails_alone(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *good = rig_live(r, "good"), *bad = rig_live(r, "bad");
    rig_hold(r);
    rig_submit(r, good, 1, 0, W, H);
    rig_submit(r, bad, 2, 0, W, H);
    rig_submit(r, good, 1, 1, W, H);
    struct item *item = rig_frame(r, bad, 2, 7, W, H);
    item->kind = ITEM_DECODED; /* without pixels: the engine refuses it */
    sched_submit(r->sched, item);
    rig_submit(r, good, 1, 2, W, H);
    rig_submit(r, bad, 2, 1, W, H);
    rig_let_go(r);
    rig_wait(r, 6);
    assert_masks(r, good, 1, 0, 3, W, H);
    assert_masks(r, bad, 2, 0, 2, W, H); /* as if frame 7 had not been sent */
    assert_int_equal(rig_find(r, bad, 7, NULL)->error, ERR_ARG);
    assert_true(strlen(rig_find(r, bad, 7, NULL)->error_text) > 0);
    session_unref(good);
    session_unref(bad);
}

static void sizes_that_no_engine_takes_never_reach_it(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_submit(r, s, 1, 0, 8, 8);
    rig_wait(r, 1);
    assert_int_equal(r->delivered[0]->error, ERR_ARG);
    assert_true(metric_get(r->metrics, METRIC_BATCHES) == 0);
    session_unref(s);
}

static void frames_of_too_much_work_are_refused(void **state)
{
    struct rig *r = *state;
    r->config.max_gflop = 0; /* less than any */
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_submit(r, s, 1, 0, W, H);
    rig_wait(r, 1);
    assert_int_equal(r->delivered[0]->error, ERR_LIMIT);
    assert_true(metric_get(r->metrics, METRIC_BATCHES) == 0);
    session_unref(s);
}

/* Each frame is more than half of what a batch may be. */
static void a_batch_has_no_more_work_than_is_allowed(void **state)
{
    struct rig *r = *state;
    enum { STREAMS = 3 };
    struct session *s[STREAMS];
    struct geometry g = {.gflop = 0};
    int side = 32;
    r->config.max_gflop = 1;
    rig_start(r);
    struct session *one = rig_live(r, "one");
    const struct arch *a = &one->params.model->model->arch;
    while (g.gflop <= 0.5) {
        side += 32;
        assert_int_equal(engine_geometry(a, side, side, NULL, &g), ERR_OK);
    }
    assert_true(g.gflop <= 1);
    session_unref(one);
    rig_hold(r);
    for (int i = 0; i < STREAMS; i++) {
        char id[2] = {(char)('a' + i), 0};
        s[i] = rig_live(r, id);
        rig_submit(r, s[i], i, 0, side, side);
    }
    rig_let_go(r);
    rig_wait(r, STREAMS);
    for (int i = 0; i < STREAMS; i++) {
        assert_int_equal(rig_find(r, s[i], 0, NULL)->error, ERR_OK);
        session_unref(s[i]);
    }
    assert_true(metric_get(r->metrics, METRIC_BATCHES) == STREAMS);
}

/* ---- commands -----------------------------------------------------------------------------------
 */

static void commands_keep_their_place_among_the_frames(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    struct rig_command *reset = rig_command(s, COMMAND_RESET);
    rig_hold(r);
    for (int t = 0; t < 3; t++)
        workers_decode(r->workers, rig_frame(r, s, 1, t, W, H));
    workers_command(r->workers, &reset->command);
    for (int t = 3; t < 5; t++)
        workers_decode(r->workers, rig_frame(r, s, 1, t, W, H));
    rig_let_go(r);
    rig_wait(r, 5);
    assert_int_equal(rig_await(reset), ERR_OK);
    assert_masks(r, s, 1, 0, 3, W, H);
    assert_masks(r, s, 1, 3, 2, W, H); /* from zero */
    assert_true(rig_find(r, s, 3, NULL)->from_zero);
    assert_false(rig_find(r, s, 3, NULL)->restarted);
    session_unref(s);
}

static void an_exported_state_goes_on_elsewhere(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    struct rig_command *out = rig_command(a, COMMAND_EXPORT), *in = rig_command(b, COMMAND_IMPORT);
    for (int t = 0; t < 2; t++)
        rig_submit(r, a, 1, t, W, H);
    sched_command(r->sched, &out->command);
    for (int t = 2; t < 4; t++)
        rig_submit(r, a, 1, t, W, H);
    sem_wait(&out->done);
    assert_int_equal(out->command.error, ERR_OK);
    in->command.data = out->command.data;
    in->command.len = out->command.len;
    out->command.data = NULL;
    sched_command(r->sched, &in->command);
    for (int t = 2; t < 4; t++)
        rig_submit(r, b, 1, t, W, H);
    assert_int_equal(rig_await(in), ERR_OK);
    rig_wait(r, 6);
    assert_masks(r, a, 1, 0, 4, W, H);
    for (int t = 2; t < 4; t++) {
        const struct item *x = rig_find(r, a, t, NULL), *y = rig_find(r, b, t, NULL);
        assert_memory_equal(x->output.data, y->output.data, W * H);
        assert_false(y->from_zero);
    }
    free(out);
    session_unref(a);
    session_unref(b);
}

static void commands_that_cannot_be_say_why(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    struct rig_command *none = rig_command(s, COMMAND_EXPORT);
    struct rig_command *wrong = rig_command(s, COMMAND_IMPORT);
    struct rig_command *late = rig_command(s, COMMAND_RESET);
    wrong->command.data = strdup("this is no state");
    wrong->command.len = 16;
    sched_command(r->sched, &none->command);
    sched_command(r->sched, &wrong->command);
    assert_int_equal(rig_await(none), ERR_NOT_FOUND);
    assert_int_equal(rig_await(wrong), ERR_FORMAT);
    session_delete(r->sessions, s);
    sched_command(r->sched, &late->command);
    assert_int_equal(rig_await(late), ERR_NOT_FOUND);
    session_unref(s);
}

/* ---- limits -------------------------------------------------------------------------------------
 */

static void too_many_waiting_live_frames_are_refused(void **state)
{
    struct rig *r = *state;
    r->config.queue_max = 3;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    struct session *job = rig_session(r, SESSION_UPLOAD, "job", "one", MODE_STREAM);
    rig_hold(r);
    for (int t = 0; t < 5; t++)
        rig_submit(r, s, 1, t, W, H);
    rig_submit(r, job, 1, 0, W, H); /* limits itself */
    rig_let_go(r);
    rig_wait(r, 6);
    assert_masks(r, s, 1, 0, 3, W, H);
    assert_int_equal(rig_find(r, s, 3, NULL)->error, ERR_BUSY);
    assert_int_equal(rig_find(r, s, 4, NULL)->error, ERR_BUSY);
    assert_int_equal(rig_find(r, job, 0, NULL)->error, ERR_OK);
    assert_true(metric_get(r->metrics, METRIC_DROPPED_OVERLOAD) == 2);
    rig_submit(r, s, 1, 5, W, H); /* there is room again */
    rig_wait(r, 7);
    assert_int_equal(rig_find(r, s, 5, NULL)->error, ERR_OK);
    session_unref(s);
    session_unref(job);
}

/* What feeds the watchdog: it stands still while the engine thread does. */
static void the_engine_thread_shows_that_it_lives(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_hold(r);
    uint64_t held = sched_alive(r->sched);
    rig_submit(r, s, 1, 0, W, H);
    assert_true(sched_alive(r->sched) == held);
    rig_let_go(r);
    rig_wait(r, 1);
    assert_true(sched_alive(r->sched) > held);
    session_unref(s);
}

static void states_beyond_the_limit_are_refused(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    rig_submit(r, a, 1, 0, W, H);
    rig_wait(r, 1);
    r->config.max_state_bytes = atomic_load(&a->state_bytes);
    rig_submit(r, b, 2, 0, W, H);
    rig_submit(r, a, 1, 1, W, H);
    rig_wait(r, 3);
    assert_int_equal(rig_find(r, b, 0, NULL)->error, ERR_BUSY);
    assert_masks(r, a, 1, 0, 2, W, H);
    session_unref(a);
    session_unref(b);
}

static void frames_of_a_deleted_stream_fail(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    rig_submit(r, s, 1, 0, W, H);
    rig_wait(r, 1);
    rig_hold(r);
    rig_submit(r, s, 1, 1, W, H);
    rig_submit(r, s, 1, 2, W, H);
    session_delete(r->sessions, s);
    rig_submit(r, s, 1, 3, W, H);
    rig_let_go(r);
    rig_wait(r, 4);
    for (int t = 1; t < 4; t++)
        assert_int_equal(rig_find(r, s, t, NULL)->error, ERR_NOT_FOUND);
    session_unref(s);
}

static void delete_stream(struct command *c)
{
    struct rig *r = c->owner;
    session_delete(r->sessions, c->session);
    rig_done(c);
}

/* Between two of its frames, so that the rest of them are pending already. */
static void a_stream_may_go_at_any_time(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    struct session *s = rig_live(r, "a"), *other = rig_live(r, "b");
    struct rig_command *last = rig_command(s, COMMAND_RESET);
    last->command.done = delete_stream;
    last->command.owner = r;
    rig_hold(r);
    rig_submit(r, s, 1, 0, W, H);
    rig_submit(r, other, 2, 0, W, H);
    sched_command(r->sched, &last->command);
    rig_submit(r, s, 1, 1, W, H);
    rig_submit(r, s, 1, 2, W, H);
    rig_submit(r, other, 2, 1, W, H);
    session_unref(s);
    rig_let_go(r);
    assert_int_equal(rig_await(last), ERR_OK);
    rig_wait(r, 5);
    assert_masks(r, other, 2, 0, 2, W, H);
    for (int i = 0, failed = 0; i < 5; i++) {
        failed += r->delivered[i]->error == ERR_NOT_FOUND;
        assert_true(i < 4 || failed == 2);
    }
    rig_clear(r); /* the last references */
    rig_submit(r, other, 2, 2, W, H);
    rig_wait(r, 1);
    session_unref(other);
}

/* ---- probes and the end -------------------------------------------------------------------------
 */

struct answer {
    sem_t there;
    enum err error;
};

static void take_answer(void *owner, enum err e, const char *text)
{
    struct answer *a = owner;
    (void)text;
    a->error = e;
    sem_post(&a->there);
}

static void a_probe_goes_through_every_engine(void **state)
{
    struct rig *r = *state;
    struct answer a;
    sem_init(&a.there, 0, 0);
    rig_start(r);
    sched_probe(r->sched, take_answer, &a);
    sem_wait(&a.there);
    assert_int_equal(a.error, ERR_OK);
    assert_true(clock_ns() - sched_alive(r->sched) < 10000000000u);
    rig_stop(r);
    sched_probe(r->sched, take_answer, &a);
    sem_wait(&a.there);
    assert_int_equal(a.error, ERR_CANCELLED);
}

static void *let_go_later(void *rig)
{
    usleep(50000);
    rig_let_go(rig);
    return NULL;
}

static void the_end_delivers_everything_once(void **state)
{
    struct rig *r = *state;
    pthread_t t;
    rig_start(r);
    struct session *s = rig_live(r, "a");
    struct session *job = rig_session(r, SESSION_UPLOAD, "job", "one", MODE_STREAM);
    struct rig_command *reset = rig_command(s, COMMAND_RESET);
    struct rig_command *late = rig_command(s, COMMAND_RESET);
    rig_hold(r);
    for (int i = 0; i < 6; i++) {
        rig_submit(r, s, 1, i, W, H);
        rig_submit(r, job, 2, i, W, H);
        workers_decode(r->workers, rig_frame(r, s, 1, 100 + i, W, H));
    }
    sched_command(r->sched, &reset->command);
    pthread_create(&t, NULL, let_go_later, r);
    rig_stop(r);
    pthread_join(t, NULL);
    assert_int_equal(workers_decode(r->workers, rig_frame(r, s, 1, 200, W, H)), ERR_OK);
    rig_submit(r, s, 1, 201, W, H);
    workers_command(r->workers, &late->command);
    assert_int_equal(rig_await(reset), ERR_CANCELLED);
    assert_int_equal(rig_await(late), ERR_CANCELLED);
    assert_int_equal(r->count, 20);
    for (int i = 0; i < r->count; i++)
        assert_int_equal(r->delivered[i]->error, ERR_CANCELLED);
    session_unref(s);
    session_unref(job);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(streams_that_share_batches_get_the_masks_of_streams_alone),
        TEST(an_upload_goes_in_runs_and_comes_out_in_order),
        TEST(other_modes_keep_no_state_and_say_so),
        TEST(another_size_starts_anew_and_says_so),
        TEST(a_failing_frame_fails_alone),
        TEST(sizes_that_no_engine_takes_never_reach_it),
        TEST(frames_of_too_much_work_are_refused),
        TEST(a_batch_has_no_more_work_than_is_allowed),
        TEST(commands_keep_their_place_among_the_frames),
        TEST(an_exported_state_goes_on_elsewhere),
        TEST(commands_that_cannot_be_say_why),
        TEST(too_many_waiting_live_frames_are_refused),
        TEST(the_engine_thread_shows_that_it_lives),
        TEST(states_beyond_the_limit_are_refused),
        TEST(frames_of_a_deleted_stream_fail),
        TEST(a_stream_may_go_at_any_time),
        TEST(a_probe_goes_through_every_engine),
        TEST(the_end_delivers_everything_once),
    };
    return cmocka_run_group_tests_name("server sched", tests, NULL, NULL);
}
