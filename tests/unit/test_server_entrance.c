#include "server/config.h"
#include "server/entrance.h"
#include "server/listen.h"

#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

static void take(void *self, int fd, const struct sockaddr *from, socklen_t len)
{
    (void)from;
    (void)len;
    ++*(int *)self;
    close(fd);
}

static int knock(int port)
{
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&to, sizeof to), 0);
    return fd;
}

static bool has_work(const struct entrance *e)
{
    struct pollfd p = {.fd = entrance_fd(e), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* As systemd keeps the sockets that it passes: who knocks then waits for the next process, and does
 * not wake this one for ever. */
static void a_socket_that_others_hold_wakes_nobody_when_it_is_given_up(void **state)
{
    char *argv[] = {"tv3sd", NULL};
    enum config_action action;
    struct config config = {0};
    struct addresses *addresses;
    struct entrance *e;
    int taken = 0, listener;
    const struct entrance_host host = {&taken, take, NULL};
    (void)state;
    assert_int_equal(config_load(&config, 1, argv, &action), ERR_OK);
    assert_int_equal(addresses_open(&config, &addresses), ERR_OK);
    assert_int_equal(listen_open("http", "127.0.0.1", 0, &listener), ERR_OK);
    int kept = dup(listener), port = listen_port(listener);
    assert_int_equal(entrance_open(listener, addresses, &host, &e), ERR_OK);

    int first = knock(port);
    assert_true(has_work(e));
    entrance_work(e);
    assert_int_equal(taken, 1);
    assert_false(has_work(e));

    entrance_deafen(e);
    int second = knock(port);
    assert_false(has_work(e));

    close(first);
    close(second);
    close(kept);
    entrance_close(e);
    addresses_close(addresses);
    config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_that_others_hold_wakes_nobody_when_it_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
