/* What a stream may take of the engine beside others, by a clock of the tests: an engine that does
 * one batch after another, and streams whose next frames are there or come at their time. */
#include "server/sched_parts.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { STREAMS = 64 };

struct world {
    struct lane lane;
    struct session session[STREAMS];
    struct item next[STREAMS];
    uint64_t now;
    double idle; /* seconds that the engine waited although somebody had a frame */
};

static void begin(struct world *w, int streams)
{
    memset(w, 0, sizeof *w);
    w->now = 1000000000;
    for (int i = 0; i < streams; i++)
        w->session[i].pending_head = &w->next[i];
}

static void pass(struct world *w, double seconds)
{
    w->now += (uint64_t)(seconds * 1e9);
}

/* One batch of these frames. */
static void batch(struct world *w, int first, int count, double cost)
{
    pass(w, cost * count);
    for (int i = first; i < first + count; i++)
        sched_charge(&w->lane, &w->session[i], cost, w->now);
}

static bool free_all(const struct world *w, int streams)
{
    for (int i = 0; i < streams; i++)
        if (sched_held(&w->lane, &w->session[i], w->now))
            return false;
    return true;
}

static void equal_streams_in_one_batch_never_wait(void **state)
{
    static struct world w;
    static const double cost[] = {0.0005, 0.0026, 0.26};
    (void)state;
    for (int c = 0; c < 3; c++) {
        for (int n = 1; n <= STREAMS; n++) {
            begin(&w, n);
            for (double t = 0; t < 20; t += cost[c] * n) {
                batch(&w, 0, n, cost[c]);
                assert_true(free_all(&w, n));
            }
        }
    }
}

static void equal_streams_that_take_turns_never_wait(void **state)
{
    static struct world w;
    static const double cost[] = {0.0005, 0.0026, 0.26};
    (void)state;
    for (int c = 0; c < 3; c++) {
        for (int n = 1; n <= 16; n++) {
            begin(&w, n);
            for (int turn = 0; turn * cost[c] < 20; turn++) {
                batch(&w, turn % n, 1, cost[c]);
                assert_true(free_all(&w, n));
            }
        }
    }
}

/* Stream 0 has a next frame at any time, the others one each `period`, spread over it. The part of
 * the engine's time that stream 0 gets, of the last of twenty seconds. */
static double flood(struct world *w, int others, double period, double cost)
{
    const uint64_t begun = w->now, step = (uint64_t)(period * 1e9);
    uint64_t due[STREAMS];
    double got = 0;
    for (int i = 1; i <= others; i++)
        due[i] = begun + step * (unsigned)i / (unsigned)others;
    while (w->now < begun + 20000000000u) {
        int next = 0;
        uint64_t held = sched_held(&w->lane, &w->session[0], w->now);
        for (int i = 1; i <= others; i++)
            if (due[i] <= w->now && (next == 0 || due[i] < due[next]))
                next = i;
        if (next == 0 && held > 0) {
            pass(w, 0.0001);
            w->idle += 0.0001;
            continue;
        }
        w->next[next].decoded = next ? due[next] : 0;
        assert_true(sched_held(&w->lane, &w->session[next], w->now) == 0);
        batch(w, next, 1, cost);
        if (next)
            due[next] += step;
        else if (w->now >= begun + 10000000000u)
            got += cost;
    }
    return got / 10;
}

static void a_flood_beside_others_has_its_limit(void **state)
{
    static struct world w;
    static const struct {
        int others;
        double load, limit; /* of the engine's time */
    } c[] = {{8, 0.3, 1.5 / 9}, {8, 0.6, 1.5 / 9}, {8, 0.1, 0.3}, {2, 0.3, 0.5}, {15, 0.02, 0.38}};
    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        begin(&w, c[i].others + 1);
        double part = flood(&w, c[i].others, c[i].others * 0.0026 / c[i].load, 0.0026);
        if (fabs(part - c[i].limit) > 0.1 * c[i].limit)
            fail_msg("%d others with %g: %g, not %g", c[i].others, c[i].load, part, c[i].limit);
        assert_true(w.idle > 0);
    }
}

static void a_flood_alone_has_the_engine(void **state)
{
    static struct world w;
    (void)state;
    begin(&w, 1);
    assert_true(flood(&w, 0, 1, 0.0026) > 0.99);
    assert_true(w.idle == 0);
}

/* Two seconds after the others' last frames. */
static void a_flood_has_the_engine_again_when_the_others_are_gone(void **state)
{
    static struct world w;
    (void)state;
    begin(&w, 9);
    flood(&w, 8, 0.065, 0.0026);
    for (double t = 0; t < 2.1; t += 0.02) {
        pass(&w, 0.02);
        batch(&w, 0, 1, 0.0026);
    }
    for (int i = 0; i < 1000; i++) {
        assert_true(sched_held(&w.lane, &w.session[0], w.now) == 0);
        batch(&w, 0, 1, 0.0026);
    }
}

/* Half of the engine's time beside eight that have a tenth together, but never two at once. */
static void a_stream_that_keeps_up_never_waits(void **state)
{
    static struct world w;
    (void)state;
    begin(&w, 9);
    for (int t = 0; t < 2000; t++) {
        w.next[0].decoded = w.now;
        assert_true(sched_held(&w.lane, &w.session[0], w.now) == 0);
        batch(&w, 0, 1, 0.0026);
        pass(&w, 0.002);
        if (t % 5 == 0)
            batch(&w, 1 + t / 5 % 8, 1, 0.0026);
    }
}

static void uploads_single_images_and_deleted_streams_never_wait(void **state)
{
    static struct world w;
    (void)state;
    begin(&w, 9);
    flood(&w, 8, 0.065, 0.0026);
    while (!sched_held(&w.lane, &w.session[0], w.now))
        batch(&w, 0, 1, 0.0026);
    w.session[0].kind = SESSION_UPLOAD;
    assert_true(sched_held(&w.lane, &w.session[0], w.now) == 0);
    w.session[0].kind = SESSION_SINGLE;
    assert_true(sched_held(&w.lane, &w.session[0], w.now) == 0);
    w.session[0].kind = SESSION_LIVE;
    assert_true(sched_held(&w.lane, &w.session[0], w.now) > 0);
    atomic_store(&w.session[0].dead, true);
    assert_true(sched_held(&w.lane, &w.session[0], w.now) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_streams_in_one_batch_never_wait),
        cmocka_unit_test(equal_streams_that_take_turns_never_wait),
        cmocka_unit_test(a_flood_beside_others_has_its_limit),
        cmocka_unit_test(a_flood_alone_has_the_engine),
        cmocka_unit_test(a_flood_has_the_engine_again_when_the_others_are_gone),
        cmocka_unit_test(a_stream_that_keeps_up_never_waits),
        cmocka_unit_test(uploads_single_images_and_deleted_streams_never_wait),
    };
    return cmocka_run_group_tests_name("server share", tests, NULL, NULL);
}
