/* The database of jobs: what many undelivered webhooks cost those who wait for its lock. */
#include "server/jobs_store_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BACKLOG = 10000, MOST = 4, STEPS = 500 };

struct rig {
    char folder[32], path[64];
    struct store *store;
};

/* A job that has ended, and its delivery. */
static void add(struct store *s, int n, const char *host)
{
    struct job_row row = {.state = "succeeded", .webhook = "http://a.test/"};
    char id[32];
    snprintf(row.id, sizeof row.id, "job-%d", n);
    snprintf(id, sizeof id, "delivery-%d", n);
    struct store_delivery d = {id, "{}", host};
    assert_int_equal(store_add(s, &row, &d), ERR_OK);
}

static int set_up(void **state)
{
    struct rig *r = *state = calloc(1, sizeof *r);
    snprintf(r->folder, sizeof r->folder, "/tmp/test_store-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    snprintf(r->path, sizeof r->path, "%s/jobs.sqlite", r->folder);
    assert_int_equal(store_open(r->path, &r->store), ERR_OK);
    return 0;
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    store_close(r->store);
    unlink(r->path);
    rmdir(r->folder);
    free(r);
    return 0;
}

/* One write to the disk for all of them. */
static void add_backlog(struct store *s)
{
    sqlite3_exec(s->db,
                 "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
                 "INSERT INTO deliveries(id, job, url, body, tries, due, host)"
                 " SELECT 'old-' || i, 'old-' || i, 'http://m.test/', '{}', 1, i % 100, 'm.test:80'"
                 " FROM n",
                 NULL, NULL, NULL);
    assert_int_equal(sqlite3_changes(s->db), BACKLOG);
}

static int steps(struct store *s, enum statement which)
{
    assert_int_equal(sqlite3_stmt_status(s->statement[which], SQLITE_STMTSTATUS_FULLSCAN_STEP, 1),
                     0);
    assert_int_equal(sqlite3_stmt_status(s->statement[which], SQLITE_STMTSTATUS_SORT, 1), 0);
    return sqlite3_stmt_status(s->statement[which], SQLITE_STMTSTATUS_VM_STEP, 1);
}

struct seen {
    int count;
    int64_t number[MOST + 1];
};

static void visit(void *seen, const struct delivery_row *r)
{
    struct seen *s = seen;
    assert_true(s->count < MOST + 1);
    s->number[s->count++] = r->number;
}

static void test_a_long_backlog_costs_a_look_no_more_than_a_short_one(void **state)
{
    struct store *s = ((struct rig *)*state)->store;
    struct delivery_host h;
    struct seen seen = {0};
    add_backlog(s);
    add(s, 1, "a.test:80");
    add(s, 2, "z.test:80");
    assert_int_equal(store_next_host(s, "", &h), ERR_OK);
    assert_string_equal(h.host, "a.test:80");
    assert_int_equal(store_next_host(s, h.host, &h), ERR_OK);
    assert_string_equal(h.host, "m.test:80");
    assert_true(h.first == 0 && h.last == 99);
    assert_int_equal(store_due(s, h.host, 0, 50, MOST, visit, &seen), ERR_OK);
    assert_int_equal(seen.count, MOST);
    for (int i = 0; i < MOST; i++)
        assert_int_equal(seen.number[i], 100 * (i + 1)); /* due first, and of those the oldest */
    assert_int_equal(store_due(s, h.host, 100, 1e9, MOST, visit, &seen), ERR_OK);
    assert_int_equal(seen.count, MOST);
    assert_int_equal(store_next_host(s, h.host, &h), ERR_OK);
    assert_string_equal(h.host, "z.test:80");
    assert_int_equal(store_next_host(s, h.host, &h), ERR_NOT_FOUND);
    assert_true(steps(s, NEXT_HOST) < STEPS);
    assert_true(steps(s, DUE) < STEPS);
}

static void test_deliveries_are_counted(void **state)
{
    struct rig *r = *state;
    add(r->store, 1, "a.test:80");
    add(r->store, 2, "a.test:80");
    assert_int_equal(store_deliveries(r->store), 2);
    assert_int_equal(store_delivered(r->store, 1), ERR_OK);
    assert_int_equal(store_delivered(r->store, 1), ERR_OK); /* it is gone */
    assert_int_equal(store_deliveries(r->store), 1);
    struct job_row gone = {.id = "gone", .state = "failed"};
    assert_int_equal(
        store_update(r->store, &gone, &(struct store_delivery){"d", "{}", "a.test:80"}), ERR_OK);
    assert_int_equal(store_deliveries(r->store), 1);
    store_close(r->store);
    assert_int_equal(store_open(r->path, &r->store), ERR_OK);
    assert_int_equal(store_deliveries(r->store), 1);
}

static void test_a_job_and_its_delivery_are_there_together_or_not_at_all(void **state)
{
    struct store *s = ((struct rig *)*state)->store;
    struct job_row again = {.id = "other", .state = "failed", .webhook = "http://a.test/"};
    struct store_delivery same_id = {"delivery-1", "{}", "a.test:80"};
    int rows = 0;
    add(s, 1, "a.test:80");
    assert_int_not_equal(store_add(s, &again, &same_id), ERR_OK);
    assert_int_equal(store_deliveries(s), 1);
    sqlite3_stmt *st = NULL;
    sqlite3_prepare_v2(s->db, "SELECT id FROM jobs", -1, &st, NULL);
    for (; sqlite3_step(st) == SQLITE_ROW; rows++)
        assert_string_equal(sqlite3_column_text(st, 0), "job-1");
    sqlite3_finalize(st);
    assert_int_equal(rows, 1);
}

/* Each as the file of somebody else may have it. */
static void test_a_host_that_is_none_ends_the_way_through_all_hosts(void **state)
{
    static const char *const none[] = {"printf('%.300c', 'h')", "'a' || char(0) || 'b'", "x'6100'"};
    struct store *s = ((struct rig *)*state)->store;
    for (int i = 0; i < 3; i++) {
        struct delivery_host h = {.host = ""};
        enum err e = ERR_OK;
        char sql[96];
        int hosts = 0;
        add(s, i, "a.test:80");
        snprintf(sql, sizeof sql, "UPDATE deliveries SET host = %s", none[i]);
        assert_int_equal(sqlite3_exec(s->db, sql, NULL, NULL, NULL), SQLITE_OK);
        while (hosts < 9 && !(e = store_next_host(s, h.host, &h)))
            hosts++;
        assert_int_equal(e, ERR_FORMAT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_long_backlog_costs_a_look_no_more_than_a_short_one,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deliveries_are_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_a_job_and_its_delivery_are_there_together_or_not_at_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_host_that_is_none_ends_the_way_through_all_hosts,
                                        set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
