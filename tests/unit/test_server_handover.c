/* What goes to the store, without one: Redis is away, so all that is to be written fails. */
#include "server/handover_parts.h"
#include "server/server.h"
#include "tests/unit/server_rig.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { W = 64, H = 48 };

struct fixture {
    struct rig rig; /* first */
    struct server server;
    char spool[32], deletions[64];
};

static int setup(void **state)
{
    static struct fixture f;
    struct rig *r = &f.rig;
    rig_open(r);
    free(r->config.state_store);
    free(r->config.redis);
    r->config.state_store = strdup("redis");
    r->config.redis = strdup("unix:/nowhere");
    strcpy(f.spool, "/tmp/tv3s-spool-XXXXXX");
    assert_non_null(mkdtemp(f.spool));
    snprintf(f.deletions, sizeof f.deletions, "%s/deletions", f.spool);
    free(r->config.spool);
    r->config.spool = strdup(f.spool);
    rig_start(r);
    f.server = (struct server){.config = &r->config,
                               .metrics = r->metrics,
                               .models = r->models,
                               .workers = r->workers,
                               .sched = r->sched,
                               .sessions = r->sessions};
    assert_int_equal(handover_open(&f.server, &f.server.handover), ERR_OK);
    assert_int_equal(handover_start(f.server.handover), ERR_OK);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    handover_stop(f->server.handover);
    rig_close(&f->rig);
    handover_close(f->server.handover);
    unlink(f->deletions);
    assert_int_equal(rmdir(f->spool), 0);
    return 0;
}

static void on_ready(void *ready, enum err e, const char *text)
{
    (void)text;
    assert_int_equal(e, ERR_OK);
    sem_post(ready);
}

/* A stream with a frame, as if it had its lease. */
static struct session *live(struct fixture *f)
{
    sem_t ready;
    struct session *s = rig_live(&f->rig, "a");
    sem_init(&ready, 0, 0);
    handover_take_up(f->server.handover, s, &(struct take_up){.done = on_ready, .owner = &ready});
    sem_wait(&ready);
    rig_submit(&f->rig, s, 1, 0, W, H);
    rig_wait(&f->rig, 1);
    atomic_store(&s->lease.ours, true);
    return s;
}

static double written(struct fixture *f)
{
    return metric_get(f->rig.metrics, METRIC_HANDOVER_FAILED);
}

static void no_state_joins_those_on_their_way_where_they_are_too_many(void **state)
{
    struct fixture *f = *state;
    struct session *s = live(f);
    atomic_fetch_add(&f->server.handover->bytes, 1ull << 30);
    struct rig_command *c = rig_command(s, COMMAND_KEEP);
    sched_command(f->rig.sched, &c->command);
    assert_int_equal(rig_await(c), ERR_OK);
    assert_true(written(f) == 0);
    assert_true(atomic_load(&s->lease.unsaved)); /* the next renewal asks again */
    atomic_fetch_sub(&f->server.handover->bytes, 1ull << 30);
    c = rig_command(s, COMMAND_KEEP);
    sched_command(f->rig.sched, &c->command);
    assert_int_equal(rig_await(c), ERR_OK);
    assert_true(written(f) == 1);
    session_unref(s);
}

/* How many the file has; the last of them in `last`, if it is not NULL. */
static int lines_of(const char *path, char last[512])
{
    char line[512];
    int n = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    for (; fgets(line, sizeof line, file); n++)
        if (last)
            memcpy(last, line, sizeof line);
    fclose(file);
    return n;
}

static void deletions_wait_for_redis_while_its_records_last_and_up_to_a_number(void **state)
{
    struct fixture *f = *state;
    struct handover *h = f->server.handover;
    struct session *gone = live(f), *other;
    session_delete(f->rig.sessions, gone);
    other = live(f); /* asked for later, so the thread has done both */
    assert_true(metric_get(f->rig.metrics, METRIC_HANDOVER_FORGOTTEN) == 1);
    assert_true(metric_get(f->rig.metrics, METRIC_HANDOVER_STREAMS) == 1);
    handover_stop(h); /* from now on we are its thread */
    for (int i = 0; i < 3 * 65536 + 3; i++)
        assert_true(forgotten_add(h, gone));
    assert_int_equal(h->forgotten.count, 65536);
    assert_in_range(lines_of(f->deletions, NULL), 65536, 2 * 65536);
    forgotten_free(h);
    f->rig.config.stream_linger = f->rig.config.stream_lease = 0;
    for (int i = 0; i < 3; i++)
        assert_true(forgotten_add(h, gone));
    assert_true(metric_get(f->rig.metrics, METRIC_HANDOVER_FORGOTTEN) == 1);
    session_unref(gone);
    session_unref(other);
}

/* Lines that nobody wrote so, one that is torn, and one whose record has ended, are passed over. */
static void deletions_outlive_the_process(void **state)
{
    struct fixture *f = *state;
    struct handover *h = f->server.handover;
    struct session *gone = live(f);
    char line[512];
    handover_stop(h); /* from now on we are its thread */
    assert_true(forgotten_add(h, gone));
    forgotten_free(h);
    assert_int_equal(lines_of(f->deletions, line), 1);
    FILE *file = fopen(f->deletions, "a");
    assert_non_null(file);
    fprintf(file, "99999999999.0 1 0123-4 key/cam-7\n1.0 1 0123-5 key/ended\n");
    fprintf(file, "99999999999.0 1 0123-6 a/b/c\n99999999999.0 1 0123-7 /../x\n");
    fprintf(file, "99999999999.0 1 key/no-token\nnan 1 0123-9 key/nan\n%0600d\n", 7);
    fprintf(file, "99999999999.0 1 0123-8 key/torn");
    fclose(file);
    forgotten_read(h);
    assert_int_equal(h->forgotten.count, 2);
    const struct forgotten *a = h->forgotten.head, *b = a->next;
    assert_string_equal(a->names, "");
    assert_string_equal(a->id, "a");
    assert_string_equal(a->token, gone->lease.token);
    assert_int_equal(a->force, !gone->lease.had);
    assert_string_equal(b->names, "key");
    assert_string_equal(b->id, "cam-7");
    assert_true(b->force);
    assert_in_range(b->until, clock_ns(), clock_ns() + 3600000000000ull); /* not for ever */
    assert_int_equal(lines_of(f->deletions, NULL), 2);
    f->rig.config.stream_linger = f->rig.config.stream_lease = 0;
    h->forgotten.head->until = h->forgotten.tail->until = 0;
    forgotten_tell(h); /* all have ended */
    assert_int_equal(access(f->deletions, F_OK), -1);
    session_unref(gone);
}

/* Where there was room for half a line only, the next has all of them. */
static void a_deletion_that_had_no_room_is_kept_with_the_next(void **state)
{
    struct fixture *f = *state;
    struct handover *h = f->server.handover;
    struct session *gone = live(f);
    char line[512];
    struct rlimit all, some;
    handover_stop(h); /* from now on we are its thread */
    assert_true(forgotten_add(h, gone));
    assert_int_equal(lines_of(f->deletions, line), 1);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
    some = (struct rlimit){strlen(line) + 10, all.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &some), 0);
    assert_true(forgotten_add(h, gone));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_true(forgotten_add(h, gone));
    forgotten_free(h);
    forgotten_read(h);
    assert_int_equal(h->forgotten.count, 3);
    session_unref(gone);
}

/* Answers a PING, and hangs up at whatever else it is asked; at as many connections as it gets. */
static void *redis_that_breaks(void *listener)
{
    char text[4096];
    for (int fd; (fd = accept(*(int *)listener, NULL, NULL)) >= 0; close(fd)) {
        ssize_t n;
        while ((n = read(fd, text, sizeof text)) > 0 && memmem(text, (size_t)n, "PING", 4))
            assert_int_equal(write(fd, "+PONG\r\n", 7), 7);
    }
    return NULL;
}

static void after_a_deletion_that_was_not_told_nothing_is_asked_before_it(void **state)
{
    struct fixture *f = *state;
    struct handover *h = f->server.handover;
    struct session *s = live(f);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    pthread_t thread;
    snprintf(a.sun_path, sizeof a.sun_path, "/tmp/tv3s-redis-%d", (int)getpid());
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(pthread_create(&thread, NULL, redis_that_breaks, &listener), 0);
    handover_stop(h); /* from now on we are its thread */
    free(f->rig.config.redis);
    assert_true(asprintf(&f->rig.config.redis, "unix:%s", a.sun_path) > 0);
    assert_true(redis_connect(&h->redis));
    lease_hold(h, s, true);
    lease_forget(h, s);
    assert_int_equal(h->forgotten.count, 1);
    assert_false(redis_is_back(&h->redis)); /* forgotten_tell comes first */
    shutdown(listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listener);
    unlink(a.sun_path);
    session_unref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            deletions_wait_for_redis_while_its_records_last_and_up_to_a_number, setup, teardown),
        cmocka_unit_test_setup_teardown(deletions_outlive_the_process, setup, teardown),
        cmocka_unit_test_setup_teardown(a_deletion_that_had_no_room_is_kept_with_the_next, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            after_a_deletion_that_was_not_told_nothing_is_asked_before_it, setup, teardown),
        cmocka_unit_test_setup_teardown(no_state_joins_those_on_their_way_where_they_are_too_many,
                                        setup, teardown),
    };
    return cmocka_run_group_tests_name("server handover", tests, NULL, NULL);
}
