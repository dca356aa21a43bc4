#include "server/access.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/session.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
    struct config config;
    struct metrics *metrics;
    struct sessions *table;
    struct served_model model, other;
};

static int fixture_open(void **state)
{
    static struct fixture f;
    char *argv[] = {"tv3sd", NULL};
    enum config_action action;
    f = (struct fixture){.model = {.name = "street"}, .other = {.name = "other"}};
    assert_int_equal(config_load(&f.config, 1, argv, &action), ERR_OK);
    assert_int_equal(metrics_open(&f.metrics), ERR_OK);
    assert_int_equal(sessions_open(&f.config, f.metrics, &f.table), ERR_OK);
    *state = &f;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *f = *state;
    sessions_close(f->table);
    metrics_close(f->metrics);
    config_free(&f->config);
    return 0;
}

static struct session *make_of(struct fixture *f, struct owner *owner, const char *id)
{
    const struct session_params p = {.owner = owner, .model = &f->model};
    struct session *s;
    bool created;
    if (session_make(f->table, id, &p, &created, &s))
        fail_msg("%s", err_text());
    return s;
}

static struct session *make(struct fixture *f, const char *id)
{
    return make_of(f, NULL, id);
}

static void ids_are_checked(void **state)
{
    (void)state;
    char longest[SESSION_ID + 1];
    memset(longest, 'a', SESSION_ID);
    longest[SESSION_ID] = '\0';
    assert_true(session_id_valid("cam-7._~A"));
    assert_false(session_id_valid(""));
    assert_false(session_id_valid("a/b"));
    assert_false(session_id_valid("a b"));
    assert_false(session_id_valid("\xc3\xa4"));
    assert_false(session_id_valid(longest)); /* 129 */
    longest[SESSION_ID - 1] = '\0';
    assert_true(session_id_valid(longest)); /* 128 */
}

static void a_stream_is_made_once_and_found(void **state)
{
    struct fixture *f = *state;
    struct session_params p = {.model = &f->model};
    struct session *a, *b;
    bool created;
    assert_int_equal(session_make(f->table, "a", &p, &created, &a), ERR_OK);
    assert_true(created);
    assert_int_equal(session_make(f->table, "a", &p, &created, &b), ERR_OK);
    assert_false(created);
    assert_ptr_equal(a, b);
    session_unref(b);
    p.model = &f->other;
    assert_int_equal(session_make(f->table, "a", &p, &created, &b), ERR_EXISTS);
    p.model = &f->model;
    p.stream.mode = MODE_CLIP;
    assert_int_equal(session_make(f->table, "a", &p, &created, &b), ERR_EXISTS);
    p.stream = (struct stream_config){.resize_override = true};
    assert_int_equal(session_make(f->table, "a", &p, &created, &b), ERR_EXISTS);
    assert_int_equal(session_make(f->table, "a/b", &p, &created, &b), ERR_ARG);
    assert_null(b);
    assert_int_equal(session_find(f->table, NULL, "a", &b), ERR_OK);
    session_unref(b);
    assert_int_equal(session_find(f->table, NULL, "b", &b), ERR_NOT_FOUND);
    session_unref(a);
}

static void ids_of_ours_differ_and_are_valid(void **state)
{
    struct fixture *f = *state;
    struct session *a = make(f, NULL), *b = make(f, NULL);
    assert_int_equal(strlen(a->id), 22);
    assert_true(session_id_valid(a->id));
    assert_string_not_equal(a->id, b->id);
    session_unref(a);
    session_unref(b);
}

static void streams_are_limited(void **state)
{
    struct fixture *f = *state;
    const struct session_params p = {.model = &f->model};
    struct session *s;
    bool created;
    f->config.max_streams = 2;
    session_unref(make(f, "a"));
    session_unref(make(f, "b"));
    assert_int_equal(session_make(f->table, "c", &p, &created, &s), ERR_BUSY);
    session_unref(make(f, "a")); /* what is there is still found */
    assert_int_equal(session_find(f->table, NULL, "a", &s), ERR_OK);
    session_delete(f->table, s);
    session_unref(s);
    session_unref(make(f, "c"));
    assert_int_equal(sessions_count(f->table), 2);
}

static void a_deleted_stream_is_dead_and_its_id_free(void **state)
{
    struct fixture *f = *state;
    struct session *old = make(f, "a");
    void *previous;
    session_delete(f->table, old);
    session_delete(f->table, old); /* twice is once */
    assert_true(old->dead);
    assert_int_equal(session_attach(old, &previous, false, &previous), ERR_NOT_FOUND);
    struct session *new = make(f, "a");
    assert_ptr_not_equal(old, new);
    session_unref(old);
    session_unref(new);
}

static void a_connection_owns_a_stream_until_another_takes_over(void **state)
{
    struct fixture *f = *state;
    struct session *s = make(f, "a");
    int a, b;
    void *previous;
    assert_int_equal(session_attach(s, &a, false, &previous), ERR_OK);
    assert_null(previous);
    assert_int_equal(session_attach(s, &b, false, &previous), ERR_EXISTS);
    assert_int_equal(session_attach(s, &b, true, &previous), ERR_OK);
    assert_ptr_equal(previous, &a);
    session_detach(s, &a); /* has it no more */
    assert_true(session_attached(s));
    session_detach(s, &b);
    assert_false(session_attached(s));
    session_unref(s);
}

static void a_stream_that_leaves_takes_no_connection(void **state)
{
    struct fixture *f = *state;
    struct session *s = make(f, "a"), *found;
    int one, other;
    void *previous;
    assert_int_equal(session_attach(s, &one, false, &previous), ERR_OK);
    session_leave(s);
    assert_int_equal(session_attach(s, &other, true, &previous), ERR_BUSY);
    assert_int_equal(session_find(f->table, NULL, "a", &found), ERR_BUSY);
    session_stay(f->table, s);
    assert_int_equal(session_attach(s, &other, true, &previous), ERR_OK);
    assert_ptr_equal(previous, &one);
    session_detach(s, &other);
    session_unref(s);
}

static void numbers_ascend(void **state)
{
    struct fixture *f = *state;
    struct session *s = make(f, "a");
    assert_int_equal(session_number(s, -1, false), 0);
    assert_int_equal(session_number(s, -1, false), 1);
    assert_int_equal(session_number(s, 7, false), 7);
    assert_int_equal(session_number(s, 7, false), -1);
    assert_int_equal(session_number(s, 3, false), -1);
    assert_int_equal(session_number(s, -1, false), 8);
    assert_int_equal(session_number(s, INT64_MAX, false), -1);
    assert_int_equal(session_number(s, INT64_MAX, true), -1);
    assert_int_equal(session_number(s, 12, true), 12); /* packets are sent as they are decoded */
    assert_int_equal(session_number(s, 10, true), 10);
    assert_int_equal(session_number(s, 12, false), -1);
    s->last_seq = 10;
    session_renumber(s);
    assert_int_equal(session_number(s, 10, true), -1); /* what is in the state */
    assert_int_equal(session_number(s, 11, true), 11);
    session_unref(s);
}

static void idle_streams_expire(void **state)
{
    struct fixture *f = *state;
    struct session *attached = make(f, "attached"), *busy = make(f, "busy");
    struct item *item = item_new(busy, ITEM_IMAGE);
    void *previous;
    session_unref(make(f, "idle"));
    assert_int_equal(session_attach(attached, f, false, &previous), ERR_OK);
    sessions_expire(f->table);
    assert_int_equal(sessions_count(f->table), 3);
    assert_true(metric_get(f->metrics, METRIC_STREAMS_ACTIVE) == 2);
    assert_true(metric_get(f->metrics, METRIC_STREAMS_IDLE) == 1);
    f->config.stream_linger = 0.01;
    usleep(20000);
    sessions_expire(f->table);
    assert_int_equal(sessions_count(f->table), 2);
    assert_true(metric_get(f->metrics, METRIC_STREAMS_EXPIRED) == 1);
    assert_true(metric_get(f->metrics, METRIC_STREAMS_IDLE) == 0);
    item_free(item);
    usleep(20000);
    sessions_expire(f->table);
    assert_true(busy->dead && !attached->dead);
    session_unref(attached);
    session_unref(busy);
}

static void states_expire_oldest_first_when_they_are_too_large(void **state)
{
    struct fixture *f = *state;
    struct session *s[4];
    f->config.max_state_bytes = 60;
    f->config.max_spill_bytes = 40;
    for (int i = 0; i < 4; i++) {
        char id[2] = {(char)('a' + i), 0};
        s[i] = make(f, id);
        s[i]->touched = (unsigned long long)(10 - i) * 1000; /* d is the oldest */
        s[i]->state_bytes = i ? 30 : 10;
        s[i]->spilled_bytes = i ? 0 : 20;
    }
    f->config.stream_linger = 1e9;
    s[3]->state_bytes = 0; /* nothing to gain */
    s[2]->in_flight = 1;   /* not idle */
    sessions_expire(f->table);
    assert_int_equal(sessions_count(f->table), 4); /* 90 of 100 */
    s[0]->spilled_bytes = 21;
    sessions_expire(f->table);
    assert_int_equal(sessions_count(f->table), 3);
    assert_true(s[1]->dead);
    s[2]->in_flight = 0;
    for (int i = 0; i < 4; i++)
        session_unref(s[i]);
}

static void states_expire_of_the_owner_that_holds_most(void **state)
{
    struct fixture *f = *state;
    struct access *access;
    f->config.max_state_bytes = 100;
    f->config.max_spill_bytes = 0;
    f->config.stream_linger = 1e9;
    assert_int_equal(access_open(&f->config, &access), ERR_OK);
    struct owner *ann = access_owner(access, "ann"), *bob = access_owner(access, "bob");
    struct session *hers = make_of(f, ann, "a"), *his[3];
    hers->state_bytes = 30;
    hers->touched = 1000; /* the oldest of all */
    for (int i = 0; i < 3; i++) {
        char id[2] = {(char)('a' + i), 0};
        his[i] = make_of(f, bob, id);
        his[i]->state_bytes = 30;
        his[i]->touched = 2000 + (unsigned long long)i;
    }
    sessions_expire(f->table); /* 120 of 90 */
    assert_false(hers->dead);
    assert_true(his[0]->dead && !his[1]->dead && !his[2]->dead);
    session_delete(f->table, hers);
    session_unref(hers);
    for (int i = 0; i < 3; i++) {
        session_delete(f->table, his[i]);
        session_unref(his[i]);
    }
    access_close(access);
}

static void *churn(void *fixture)
{
    struct fixture *f = fixture;
    for (int i = 0; i < 2000; i++) {
        char id[8];
        snprintf(id, sizeof id, "%d", i % 7);
        struct session *s = make(f, id);
        session_number(s, -1, false);
        if (i % 3 == 0)
            session_delete(f->table, s);
        session_unref(s);
    }
    return NULL;
}

static void threads_share_the_table(void **state)
{
    struct fixture *f = *state;
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, churn, f);
    for (int i = 0; i < 20; i++)
        sessions_expire(f->table);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_true(sessions_count(f->table) <= 7);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ids_are_checked),
        TEST(a_stream_is_made_once_and_found),
        TEST(ids_of_ours_differ_and_are_valid),
        TEST(streams_are_limited),
        TEST(a_deleted_stream_is_dead_and_its_id_free),
        TEST(a_connection_owns_a_stream_until_another_takes_over),
        TEST(a_stream_that_leaves_takes_no_connection),
        TEST(numbers_ascend),
        TEST(idle_streams_expire),
        TEST(states_expire_oldest_first_when_they_are_too_large),
        TEST(states_expire_of_the_owner_that_holds_most),
        TEST(threads_share_the_table),
    };
    return cmocka_run_group_tests_name("server session", tests, NULL, NULL);
}
