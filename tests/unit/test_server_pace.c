/* The clock is the test's; the socket is a real one of TCP. */
#include "server/pace.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

enum { LIMIT = 10 };
#define SECOND 1000000000ull

struct pair {
    int server, client;
};

static void open_pair(struct pair *p)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int small = 4096, listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    p->client = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(setsockopt(p->client, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    assert_int_equal(connect(p->client, (struct sockaddr *)&at, sizeof at), 0);
    p->server = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(p->server >= 0);
    close(listener);
}

static void close_pair(struct pair *p)
{
    close(p->server);
    close(p->client);
}

/* Until the socket takes no more. */
static void fill(int fd)
{
    static const char much[1 << 16];
    while (send(fd, much, sizeof much, MSG_NOSIGNAL) > 0)
        ;
}

static void take(int fd, size_t len)
{
    static char some[1 << 16];
    while (len > 0) {
        ssize_t n = recv(fd, some, len < sizeof some ? len : sizeof some, 0);
        assert_true(n > 0);
        len -= (size_t)n;
    }
}

static void who_has_nothing_to_take_is_never_slow(void **state)
{
    struct pair s;
    struct pace p = {0};
    (void)state;
    open_pair(&s);
    for (uint64_t now = SECOND; now < 1000 * SECOND; now += 100 * SECOND)
        assert_true(pace_kept(&p, s.server, now, LIMIT));
    close_pair(&s);
}

static void who_takes_nothing_is_slow_after_the_limit(void **state)
{
    struct pair s;
    struct pace p = {0};
    (void)state;
    open_pair(&s);
    fill(s.server);
    assert_true(pace_kept(&p, s.server, 50 * SECOND, LIMIT));
    assert_true(pace_kept(&p, s.server, 60 * SECOND, LIMIT));
    assert_false(pace_kept(&p, s.server, 61 * SECOND, LIMIT));
    close_pair(&s);
}

static void who_takes_little_is_slow_and_who_takes_enough_is_not(void **state)
{
    struct pair s;
    (void)state;
    for (int enough = 0; enough < 2; enough++) {
        struct pace p = {0};
        bool kept = true;
        open_pair(&s);
        fill(s.server);
        uint64_t now = 50 * SECOND;
        /* What has been read is acknowledged, but for a window of 4 KiB and its like. */
        for (int i = 0; i < 5; i++, now += 8 * SECOND) {
            kept = kept && pace_kept(&p, s.server, now, LIMIT);
            take(s.client, enough ? 4 * PACE_LEAST : 1024);
        }
        assert_int_equal(kept, enough);
        close_pair(&s);
    }
}

static void who_takes_all_is_never_slow(void **state)
{
    struct pair s;
    struct pace p = {0};
    (void)state;
    open_pair(&s);
    for (uint64_t now = SECOND; now < 100 * SECOND; now += 5 * SECOND) {
        assert_int_equal(send(s.server, "event", 5, 0), 5);
        take(s.client, 5);
        assert_true(pace_kept(&p, s.server, now, LIMIT));
    }
    close_pair(&s);
}

static void a_socket_that_does_not_tell_is_not_slow(void **state)
{
    int s[2];
    struct pace p = {0};
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
    fill(s[0]);
    assert_true(pace_kept(&p, s[0], SECOND, LIMIT));
    assert_true(pace_kept(&p, s[0], 100 * SECOND, LIMIT));
    close(s[0]);
    close(s[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_has_nothing_to_take_is_never_slow),
        cmocka_unit_test(who_takes_nothing_is_slow_after_the_limit),
        cmocka_unit_test(who_takes_little_is_slow_and_who_takes_enough_is_not),
        cmocka_unit_test(who_takes_all_is_never_slow),
        cmocka_unit_test(a_socket_that_does_not_tell_is_not_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
