/* Hidden states of more streams than the device has room for. */
#include "tests/unit/server_rig.h"

enum { W = 64, H = 48, STREAMS = 4, FRAMES = 5, PIXELS = W * H };

static const char *const name[STREAMS] = {"a", "b", "c", "d"};

static uint64_t held; /* at the end, by the last stream of `alone` */

/* One frame, and what became of it. */
static const struct item *label_size(struct rig *r, struct session *s, int seed, int t, int width,
                                     int height)
{
    int count = r->count;
    rig_submit(r, s, seed, t, width, height);
    rig_wait(r, count + 1);
    return r->delivered[count];
}

static const struct item *label(struct rig *r, struct session *s, int seed, int t)
{
    return label_size(r, s, seed, t, W, H);
}

/* The masks of clip `seed` as a stream without any limit has them; the caller frees them. */
static uint8_t *alone(struct rig *r, enum stream_mode mode, int seed)
{
    uint8_t *masks = malloc(FRAMES * PIXELS);
    struct session *s = rig_session(r, SESSION_LIVE, "alone", "one", mode);
    for (int t = 0; t < FRAMES; t++) {
        const struct item *item = label(r, s, seed, t);
        assert_int_equal(item->output.len, PIXELS);
        memcpy(masks + t * PIXELS, item->output.data, PIXELS);
    }
    held = s->state_bytes;
    session_delete(r->sessions, s);
    session_unref(s);
    rig_clear(r); /* the last references */
    return masks;
}

/* The bytes of a state; *file, unless NULL, is it as a file, which the caller frees. */
static uint64_t state_of(struct rig *r, int width, int height, struct command *file)
{
    struct session *s = rig_live(r, "probe");
    label_size(r, s, 1, 0, width, height);
    uint64_t bytes = s->state_bytes;
    if (file) {
        struct rig_command *out = rig_command(s, COMMAND_EXPORT);
        sched_command(r->sched, &out->command);
        sem_wait(&out->done);
        *file = out->command;
        free(out);
    }
    session_delete(r->sessions, s);
    session_unref(s);
    rig_clear(r);
    assert_true(bytes > 0);
    return bytes;
}

static uint64_t one_state(struct rig *r)
{
    return state_of(r, W, H, NULL);
}

static double device(const struct rig *r)
{
    return metric_get(r->metrics, METRIC_STATE_BYTES);
}

static double host(const struct rig *r)
{
    return metric_get(r->metrics, METRIC_SPILLED_BYTES);
}

/* Streams that take turns, with room for `fit` of them and a half: every mask is that of a stream
 * alone. */
static void check_turns(struct rig *r, enum stream_mode mode, int fit)
{
    uint8_t *want[STREAMS];
    struct session *s[STREAMS];
    r->config.max_state_bytes = UINT64_MAX / 4;
    for (int i = 0; i < STREAMS; i++)
        want[i] = alone(r, mode, i);
    uint64_t room = held * (uint64_t)fit + held / 2;
    r->config.max_state_bytes = room;
    for (int i = 0; i < STREAMS; i++)
        s[i] = rig_session(r, SESSION_LIVE, name[i], "one", mode);
    for (int t = 0; t < FRAMES; t++) {
        for (int i = 0; i < STREAMS; i++) {
            const struct item *item = label(r, s[i], i, t);
            assert_int_equal(item->error, ERR_OK);
            assert_memory_equal(item->output.data, want[i] + t * PIXELS, PIXELS);
            rig_clear(r); /* nothing is in flight */
            assert_true(device(r) <= (double)room);
            assert_int_equal(s[i]->spilled_bytes, 0);
        }
    }
    assert_true(host(r) > 0);
    for (int i = 0; i < STREAMS; i++) {
        session_delete(r->sessions, s[i]);
        session_unref(s[i]);
        free(want[i]);
    }
}

static void streams_beyond_the_device_take_turns(void **state)
{
    struct rig *r = *state;
    r->config.spill_idle = 0;
    rig_start(r);
    check_turns(r, MODE_STREAM, 1);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_SPILLS) >= STREAMS * FRAMES - 1);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_FETCHES) == STREAMS * (FRAMES - 1));
    check_turns(r, MODE_STREAM, 2);
    check_turns(r, MODE_CLIP, 1);
    check_turns(r, MODE_CLIP, 3);
}

static void the_oldest_goes_first(void **state)
{
    struct rig *r = *state;
    struct session *s[STREAMS];
    r->config.spill_idle = 0;
    rig_start(r);
    uint64_t bytes = one_state(r);
    r->config.max_state_bytes = 3 * bytes;
    for (int i = 0; i < STREAMS; i++)
        s[i] = rig_live(r, name[i]);
    for (int i = 0; i < 3; i++)
        label(r, s[i], i, 0);
    label(r, s[0], 0, 1); /* now b is the oldest */
    rig_clear(r);
    label(r, s[3], 3, 0);
    assert_int_equal(s[1]->spilled_bytes, bytes);
    assert_int_equal(s[1]->state_bytes, 0);
    assert_true(host(r) == (double)bytes);
    for (int i = 0; i < STREAMS; i++) {
        assert_true(i == 1 || s[i]->spilled_bytes == 0);
        session_unref(s[i]);
    }
}

/* A stream whose frames are under way, or were a moment ago, stays where it is. */
static void busy_streams_stay(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    uint64_t bytes = one_state(r);
    r->config.max_state_bytes = bytes;
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    r->config.spill_idle = 3600;
    assert_int_equal(label(r, a, 1, 0)->error, ERR_OK);
    rig_clear(r);
    assert_int_equal(label(r, b, 2, 0)->error, ERR_BUSY);
    r->config.spill_idle = 0;
    assert_int_equal(label(r, a, 1, 1)->error, ERR_OK);
    assert_int_equal(label(r, b, 2, 0)->error, ERR_BUSY); /* a's frame is not cleared */
    rig_clear(r);
    assert_int_equal(label(r, b, 2, 0)->error, ERR_OK);
    assert_int_equal(a->spilled_bytes, bytes);
    session_unref(a);
    session_unref(b);
}

/* Refused, and everybody is as before; there is room again when the oldest has expired. */
static void beyond_both_limits_the_oldest_expires(void **state)
{
    struct rig *r = *state;
    r->config.spill_idle = 0;
    rig_start(r);
    uint64_t bytes = one_state(r);
    uint8_t *want = alone(r, MODE_STREAM, 1);
    r->config.max_state_bytes = bytes;
    r->config.max_spill_bytes = bytes;
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b"), *c = rig_live(r, "c");
    label(r, a, 0, 0);
    rig_clear(r);
    label(r, b, 1, 0);
    rig_clear(r);
    assert_int_equal(label(r, c, 2, 0)->error, ERR_BUSY);
    assert_int_equal(label(r, b, 1, 1)->error, ERR_OK);
    assert_memory_equal(r->delivered[1]->output.data, want + PIXELS, PIXELS);
    rig_clear(r);
    sessions_expire(r->sessions);
    assert_true(a->dead);
    assert_false(b->dead);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_EXPIRED) == 1);
    session_unref(a);
    assert_int_equal(label(r, c, 2, 0)->error, ERR_OK);
    assert_int_equal(b->spilled_bytes, bytes);
    session_unref(b);
    session_unref(c);
    free(want);
}

/* Two states that come back in one batch fit where two have room. */
static void states_that_come_back_together_are_counted_once(void **state)
{
    struct rig *r = *state;
    struct session *s[STREAMS];
    r->config.spill_idle = 0;
    rig_start(r);
    r->config.max_state_bytes = 2 * one_state(r);
    for (int i = 0; i < STREAMS; i++) {
        s[i] = rig_live(r, name[i]);
        label(r, s[i], i, 0);
        rig_clear(r);
    }
    rig_hold(r);
    rig_submit(r, s[0], 0, 1, W, H);
    rig_submit(r, s[1], 1, 1, W, H);
    rig_let_go(r);
    rig_wait(r, 2);
    assert_int_equal(r->delivered[0]->error, ERR_OK);
    assert_int_equal(r->delivered[1]->error, ERR_OK);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_FETCHES) == 2);
    assert_true(device(r) == (double)r->config.max_state_bytes);
    for (int i = 0; i < STREAMS; i++)
        session_unref(s[i]);
}

/* The state that a frame of another size ends takes no room on its way out. */
static void a_spilled_state_of_another_size_is_not_fetched(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    uint64_t large = state_of(r, 2 * W, 2 * H, NULL), small = one_state(r);
    r->config.max_state_bytes = large;
    assert_true(2 * small <= large);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    label_size(r, a, 1, 0, 2 * W, 2 * H);
    rig_clear(r);
    r->config.spill_idle = 0;
    label(r, b, 2, 0);
    assert_int_equal(a->spilled_bytes, large);
    r->config.spill_idle = 3600; /* b stays */
    const struct item *item = label(r, a, 1, 1);
    assert_int_equal(item->error, ERR_OK);
    assert_true(item->restarted);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_FETCHES) == 0);
    assert_true(device(r) == 2 * (double)small);
    assert_true(host(r) == 0);
    session_unref(a);
    session_unref(b);
}

static void a_state_larger_than_the_device_is_refused(void **state)
{
    struct rig *r = *state;
    rig_start(r);
    r->config.max_state_bytes = one_state(r) - 1;
    struct session *s = rig_live(r, "a");
    assert_int_equal(label(r, s, 1, 0)->error, ERR_LIMIT);
    session_unref(s);
}

static void spilled_states_are_exported_reset_and_replaced(void **state)
{
    struct rig *r = *state;
    r->config.spill_idle = 0;
    rig_start(r);
    uint64_t bytes = one_state(r);
    uint8_t *want = alone(r, MODE_STREAM, 1);
    r->config.max_state_bytes = 2 * bytes;
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b"), *c = rig_live(r, "c");
    for (int t = 0; t < 2; t++)
        label(r, a, 1, t);
    rig_clear(r);
    label(r, b, 2, 0);
    label(r, c, 2, 0);
    rig_clear(r);
    assert_int_equal(a->spilled_bytes, bytes);

    struct rig_command *out = rig_command(a, COMMAND_EXPORT);
    sched_command(r->sched, &out->command);
    sem_wait(&out->done);
    assert_int_equal(out->command.error, ERR_OK);
    assert_int_equal(a->spilled_bytes, bytes); /* where it was */
    struct rig_command *reset = rig_command(a, COMMAND_RESET);
    sched_command(r->sched, &reset->command);
    assert_int_equal(rig_await(reset), ERR_OK);
    assert_int_equal(a->spilled_bytes, 0);

    struct rig_command *in = rig_command(b, COMMAND_IMPORT);
    in->command.data = out->command.data;
    in->command.len = out->command.len;
    out->command.data = NULL;
    sem_post(&out->done);
    rig_await(out);
    sched_command(r->sched, &in->command);
    assert_int_equal(rig_await(in), ERR_OK);
    assert_true(device(r) <= 2 * (double)bytes);
    assert_memory_equal(label(r, b, 1, 2)->output.data, want + 2 * PIXELS, PIXELS);
    session_unref(a);
    session_unref(b);
    session_unref(c);
    free(want);
}

static enum err import(struct rig *r, struct session *s, struct command *file, size_t len)
{
    struct rig_command *in = rig_command(s, COMMAND_IMPORT);
    in->command.data = malloc(len);
    in->command.len = len;
    memcpy(in->command.data, file->data, len);
    sched_command(r->sched, &in->command);
    return rig_await(in);
}

/* What the old state takes is no room for the new one: both are there until it is in place. */
static void an_import_does_not_spill_its_own_stream(void **state)
{
    struct rig *r = *state;
    struct command file;
    r->config.spill_idle = 0;
    rig_start(r);
    uint64_t large = state_of(r, 2 * W, 2 * H, &file), small = one_state(r);
    r->config.max_state_bytes = large + small - 1;
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    label(r, a, 1, 0);
    rig_clear(r);
    label(r, b, 2, 0); /* in flight until it is cleared */
    assert_int_equal(import(r, a, &file, file.len), ERR_BUSY);
    assert_int_equal(a->state_bytes, small);
    rig_clear(r);
    assert_int_equal(import(r, a, &file, file.len), ERR_OK);
    assert_int_equal(a->state_bytes, large);
    assert_int_equal(b->spilled_bytes, small);
    free(file.data);
    session_unref(a);
    session_unref(b);
}

static void a_file_that_is_no_state_moves_nobody_out(void **state)
{
    struct rig *r = *state;
    struct command file;
    r->config.spill_idle = 0;
    rig_start(r);
    r->config.max_state_bytes = state_of(r, W, H, &file);
    struct session *a = rig_live(r, "a"), *b = rig_live(r, "b");
    label(r, a, 1, 0);
    rig_clear(r);
    assert_int_equal(import(r, b, &file, file.len - 1), ERR_FORMAT);
    assert_true(metric_get(r->metrics, METRIC_STREAMS_SPILLS) == 0);
    r->config.spill_idle = 3600;
    assert_int_equal(import(r, b, &file, file.len - 1), ERR_FORMAT);
    assert_int_equal(import(r, b, &file, file.len), ERR_BUSY);
    free(file.data);
    session_unref(a);
    session_unref(b);
}

static int setup(void **state)
{
    struct rig *r = malloc(sizeof *r);
    rig_open(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    rig_close(*state);
    free(*state);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(streams_beyond_the_device_take_turns),
        TEST(the_oldest_goes_first),
        TEST(busy_streams_stay),
        TEST(beyond_both_limits_the_oldest_expires),
        TEST(states_that_come_back_together_are_counted_once),
        TEST(a_spilled_state_of_another_size_is_not_fetched),
        TEST(a_state_larger_than_the_device_is_refused),
        TEST(spilled_states_are_exported_reset_and_replaced),
        TEST(an_import_does_not_spill_its_own_stream),
        TEST(a_file_that_is_no_state_moves_nobody_out),
    };
    return cmocka_run_group_tests_name("server spill", tests, NULL, NULL);
}
