/* A decoding process can do nothing but decode; what it must not have, it has not. Its end is its
 * own. */
#include "sandbox/confine.h"
#include "sandbox/host.h"
#include "sandbox/link.h"
#include "sandbox/zygote.h"

#include "tests/unit/forbidden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { MEMORY = 256 << 20, CPU_SECONDS = 2 };

/* ---- what is tried ------------------------------------------------------------------------------
 */

/* Runs it in a process that is confined. Its status; what it returned is its exit status. */
static int confined(long (*try)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        int done = 0;
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (confine(confine_address_space() + MEMORY, CPU_SECONDS, &done) ||
            !(done & CONFINED_SECCOMP))
            _exit(99);
        _exit((int)(try() & 63));
    }
    int status = -1;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void what_is_not_decoding_ends_the_process(void **state)
{
    (void)state;
    for (size_t i = 0; i < FORBIDDEN; i++) {
        int status = confined(forbidden[i].try);
        if (!KILLED_BY(status, SIGSYS))
            fail_msg("%s: status %x", forbidden[i].name, (unsigned)status);
    }
    assert_int_equal(access("/tmp/tv3sd-sandbox-test", F_OK), -1);
}

static long open_to_read(void)
{
    return open("/etc/passwd", O_RDONLY) == -1 && errno == EACCES ? 7 : 0;
}

static long compute(void)
{
    volatile char *memory = malloc(1 << 20);
    memory[5] = 7;
    return memory[5];
}

static void decoding_goes_on(void **state)
{
    (void)state;
    int status = confined(open_to_read); /* in vain, not the end: libc looks for its tables */
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    status = confined(compute);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static long take_memory(void)
{
    return malloc((size_t)2 * MEMORY) == NULL ? 7 : 0;
}

static long burn(void)
{
    volatile bool on = true;
    while (on)
        ;
    return 0;
}

static long give_up(void)
{
    abort();
}

static void memory_and_time_have_an_end(void **state)
{
    (void)state;
    int status = confined(burn);
    assert_true(KILLED_BY(status, SIGXCPU));
    status = confined(give_up);
    assert_true(KILLED_BY(status, SIGABRT));
    if (SANITIZED) /* which take terabytes of addresses */
        return;
    status = confined(take_memory);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* ---- lives --------------------------------------------------------------------------------------
 */

static struct sandbox *open_sandbox(void)
{
    const struct sandbox_options o = {.max_pixels = 4096, .max_input = 4096, .patience = 100};
    struct sandbox *s;
    assert_int_equal(sandbox_open(&o, &s), ERR_OK);
    return s;
}

/* A child for images; *socket is ours, and stays open for as long as it is to live. */
static enum err spawn(struct sandbox *s, const struct sandbox_wait *wait, int *socket,
                      struct host_child *child)
{
    enum { PAGE = 4096 };
    const struct child_order order = {.kind = CHILD_IMAGES,
                                      .input_bytes = PAGE,
                                      .slot_bytes = PAGE,
                                      .slots = 1,
                                      .memory = MEMORY,
                                      .cpu_seconds = CPU_SECONDS};
    int pair[2], memory = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(ftruncate(memory, (off_t)wire_memory(&order)), 0);
    enum err e = host_spawn(s, &order, pair[1], memory, -1, wait, child);
    close(pair[1]);
    close(memory);
    *socket = pair[0];
    return e;
}

static struct host_child bear(struct sandbox *s, int *socket)
{
    struct host_child child;
    assert_int_equal(spawn(s, NULL, socket, &child), ERR_OK);
    return child;
}

static pid_t parent(pid_t pid)
{
    char path[32];
    int of = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d (%*[^)]) %*c %d", &of), 1);
    fclose(f);
    return of;
}

static bool has_ended(const struct host_child *child, int wait_ms)
{
    struct pollfd p = {.fd = child->fd, .events = POLLIN};
    return poll(&p, 1, wait_ms) == 1;
}

static void who_asks_hears_how_a_child_ended(void **state)
{
    (void)state;
    struct sandbox *s = open_sandbox();
    int socket;
    struct host_child child = bear(s, &socket);
    kill(child.pid, SIGALRM); /* which no sanitizer takes */
    assert_true(has_ended(&child, -1));
    assert_int_equal(host_bury_asking(s, &child), SIGALRM);
    close(socket);
    child = bear(s, &socket);
    close(socket); /* it goes by itself */
    assert_true(has_ended(&child, -1));
    assert_int_equal(host_bury_asking(s, &child), 0);
    sandbox_close(s);
}

static void a_child_is_not_its_number(void **state)
{
    (void)state;
    struct sandbox *s = open_sandbox();
    int socket[2];
    struct host_child old = bear(s, &socket[0]);
    kill(parent(old.pid), SIGKILL);
    assert_true(has_ended(&old, -1));
    struct host_child now = bear(s, &socket[1]); /* of another zygote */
    struct host_child mixed = {.pid = now.pid, .fd = old.fd};
    host_allow(s, &mixed, 1);
    assert_int_equal(host_bury_asking(s, &mixed), -1);
    assert_false(has_ended(&now, 0));
    assert_int_equal(host_bury_asking(s, &now), SIGKILL);
    close(socket[0]);
    close(socket[1]);
    sandbox_close(s);
}

static void a_zygote_that_does_not_listen_holds_up_no_end(void **state)
{
    (void)state;
    struct sandbox *s = open_sandbox();
    int socket;
    struct host_child child = bear(s, &socket);
    pid_t pid = child.pid, zygote = parent(pid);
    int ended = (int)syscall(SYS_pidfd_open, pid, 0);
    kill(zygote, SIGSTOP);
    host_allow(s, &child, 1);
    host_bury(s, &child);
    close(socket);
    assert_true(has_ended(&(struct host_child){pid, ended}, 0));
    kill(zygote, SIGCONT);
    child = bear(s, &socket); /* of the same zygote, which nobody lost patience with */
    assert_int_equal(parent(child.pid), zygote);
    assert_int_equal(kill(pid, 0), -1); /* reaped by now */
    close(ended);
    kill(zygote, SIGSTOP);
    host_bury(s, &child);
    close(socket);
    sandbox_close(s); /* nor does it hold up this */
    assert_int_equal(kill(zygote, 0), -1);
}

struct late {
    struct sandbox *sandbox;
    pid_t zygote;
    struct host_child next;
    int socket;
};

/* When the next one has been born, the first one's birth has been told. */
static bool cancelled_when_it_is_born(void *late)
{
    struct late *l = late;
    kill(l->zygote, SIGCONT);
    l->next = bear(l->sandbox, &l->socket);
    return true;
}

static bool has_children(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    int c = fgetc(f);
    fclose(f);
    return c != EOF;
}

static void a_child_that_is_born_when_nobody_wants_it_any_more_is_buried(void **state)
{
    (void)state;
    struct late l = {.sandbox = open_sandbox()};
    const struct sandbox_wait wait = {.cancelled = cancelled_when_it_is_born, .ctx = &l};
    struct host_child child = bear(l.sandbox, &l.socket);
    int socket;
    l.zygote = parent(child.pid);
    host_bury(l.sandbox, &child);
    close(l.socket);
    kill(l.zygote, SIGSTOP);
    assert_int_equal(spawn(l.sandbox, &wait, &socket, &child), ERR_CANCELLED);
    assert_true(has_children(l.zygote));
    assert_int_equal(host_bury_asking(l.sandbox, &l.next), SIGKILL); /* the last that is asked */
    assert_false(has_children(l.zygote));
    close(socket);
    close(l.socket);
    sandbox_close(l.sandbox);
}

/* More than the socket takes of what a zygote that does not listen is told. */
static void a_child_that_the_zygote_cannot_be_told_of_is_buried_later(void **state)
{
    (void)state;
    enum { MANY = 10000 };
    struct sandbox *s = open_sandbox();
    int socket[2];
    struct host_child child = bear(s, &socket[0]), next = bear(s, &socket[1]);
    pid_t zygote = parent(child.pid);
    kill(zygote, SIGSTOP);
    for (int i = 0; i < MANY; i++)
        host_allow(s, &next, CPU_SECONDS);
    host_bury(s, &child);
    kill(zygote, SIGCONT);
    close(socket[0]);
    while (spawn(s, NULL, &socket[0], &child) != ERR_OK) /* it has not heard all of it yet */
        close(socket[0]);
    assert_int_equal(parent(child.pid), zygote);
    assert_int_equal(host_bury_asking(s, &next), SIGKILL);
    assert_int_equal(host_bury_asking(s, &child), SIGKILL);
    assert_false(has_children(zygote));
    close(socket[0]);
    close(socket[1]);
    sandbox_close(s);
}

/* ---- before the first word ----------------------------------------------------------------------
 */

enum { DOOMED = 100 }; /* the descriptor by which the zygote gets what we share with it */

static atomic_int *doomed; /* so many children die as they are born */

static void share_doom(void)
{
    doomed = mmap(NULL, sizeof *doomed, PROT_READ | PROT_WRITE, MAP_SHARED, DOOMED, 0);
    assert_true(doomed != MAP_FAILED);
}

static void die_at_birth(void)
{
    if (atomic_load(doomed) > 0) {
        atomic_fetch_sub(doomed, 1);
        raise(SIGKILL);
    }
}

static void count_death(void *ctx, enum sandbox_end how, const char *who, const char *text)
{
    (void)who, (void)text;
    assert_int_equal(how, SANDBOX_KILLED);
    ++*(int *)ctx;
}

/* It has seen nothing of any input: another takes its place. */
static void a_child_that_dies_before_its_first_word_is_replaced(void **state)
{
    (void)state;
    const struct child_order order = {.kind = CHILD_IMAGES};
    int deaths = 0;
    struct sandbox *s;
    struct link *l;
    const struct sandbox_options o = {.max_pixels = 4096,
                                      .max_input = 4096,
                                      .patience = 100,
                                      .died = count_death,
                                      .ctx = &deaths};
    assert_int_equal(sandbox_open(&o, &s), ERR_OK);
    atomic_store(doomed, 1);
    assert_int_equal(link_open(s, &order, -1, "test", NULL, NULL, &l), ERR_OK);
    assert_int_equal(deaths, 1);
    link_close(l);
    atomic_store(doomed, 2);
    assert_int_equal(link_open(s, &order, -1, "test", NULL, NULL, &l), ERR_DECODER);
    assert_int_equal(deaths, 3);
    assert_int_equal(atomic_load(doomed), 0);
    sandbox_close(s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_decoding_ends_the_process),
        cmocka_unit_test(decoding_goes_on),
        cmocka_unit_test(memory_and_time_have_an_end),
        cmocka_unit_test(who_asks_hears_how_a_child_ended),
        cmocka_unit_test(a_child_is_not_its_number),
        cmocka_unit_test(a_zygote_that_does_not_listen_holds_up_no_end),
        cmocka_unit_test(a_child_that_is_born_when_nobody_wants_it_any_more_is_buried),
        cmocka_unit_test(a_child_that_the_zygote_cannot_be_told_of_is_buried_later),
        cmocka_unit_test(a_child_that_dies_before_its_first_word_is_replaced),
    };
    if (zygote_wanted(argc, argv)) {
        share_doom();
        pthread_atfork(NULL, NULL, die_at_birth);
        return zygote_main();
    }
    int memory = memfd_create("doomed", 0);
    if (memory < 0 || dup2(memory, DOOMED) != DOOMED || ftruncate(DOOMED, sizeof *doomed) != 0)
        return 1;
    close(memory);
    share_doom();
    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
