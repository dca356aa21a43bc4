/* Streams that move between two lanes (of two engines on the CPU) while their frames come in. */
#include "server/sched_parts.h"
#include "tests/unit/server_rig.h"

enum { FRAMES = 24, WIDTH = 64, HEIGHT = 48 };

static int open_rig(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    setenv("TV3SD_DEVICE", "cpu,cpu", 1);
    rig_open(r);
    rig_start(r);
    *state = r;
    return 0;
}

static int close_rig(void **state)
{
    rig_close(*state);
    free(*state);
    return 0;
}

/* From where it is to the other one. */
static void send_off(struct rig *r, struct session *s)
{
    int here = session_lane(s)->device;
    atomic_store(&r->sched->lane[!here].drained, false);
    atomic_store(&r->sched->lane[here].drained, true);
    sched_drain_session(r->sched, s);
}

static void frames_that_wait_move_in_their_order_and_the_state_with_them(void **state)
{
    struct rig *r = *state;
    struct session *here = rig_live(r, "here"), *there = rig_live(r, "there"); /* neither closes */
    struct session *stays = rig_live(r, "stays"), *moves = rig_live(r, "moves");
    assert_int_equal(sched_devices(r->sched), 2);
    assert_ptr_not_equal(session_lane(here), session_lane(there));
    assert_ptr_not_equal(session_lane(stays), session_lane(moves));
    for (int t = 0; t < FRAMES; t++) {
        rig_submit(r, stays, 1, t, WIDTH, HEIGHT);
        rig_submit(r, moves, 1, t, WIDTH, HEIGHT);
        if (t % 3 == 1)
            send_off(r, moves);
    }
    rig_wait(r, 2 * FRAMES);
    int before = -1;
    for (int t = 0; t < FRAMES; t++) {
        int place;
        const struct item *a = rig_find(r, stays, t, NULL), *b = rig_find(r, moves, t, &place);
        assert_int_equal(a->error, ERR_OK);
        assert_int_equal(b->error, ERR_OK);
        assert_memory_equal(a->output.data, b->output.data, a->output.len);
        assert_int_equal(b->from_zero, t == 0);
        assert_true(place > before);
        before = place;
    }
    session_unref(here);
    session_unref(there);
    session_unref(stays);
    session_unref(moves);
}

/* With nothing in flight, so that the move is sure to be done when its answer is there. */
static void a_state_that_moved_is_counted_where_it_is(void **state)
{
    struct rig *r = *state;
    struct session *s = rig_live(r, "moves");
    rig_submit(r, s, 1, 0, WIDTH, HEIGHT);
    rig_wait(r, 1);
    struct lane *from = session_lane(s), *to = &r->sched->lane[!from->device];
    send_off(r, s);
    rig_hold(r); /* the last lane to answer did what it was asked before */
    rig_let_go(r);
    struct rig_command *c = rig_command(s, COMMAND_EXPORT); /* behind the import */
    sched_command(r->sched, &c->command);
    assert_int_equal(rig_await(c), ERR_OK);
    assert_ptr_equal(session_lane(s), to);
    pthread_mutex_lock(&r->sched->lock);
    assert_int_equal(from->pinned[SESSION_LIVE], 0);
    assert_int_equal(to->pinned[SESSION_LIVE], 1);
    pthread_mutex_unlock(&r->sched->lock);
    rig_stop(r);
    assert_int_equal(from->state_bytes, 0);
    assert_true(to->state_bytes > 0);
    session_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            frames_that_wait_move_in_their_order_and_the_state_with_them, open_rig, close_rig),
        cmocka_unit_test_setup_teardown(a_state_that_moved_is_counted_where_it_is, open_rig,
                                        close_rig),
    };
    return cmocka_run_group_tests_name("moves", tests, NULL, NULL);
}
