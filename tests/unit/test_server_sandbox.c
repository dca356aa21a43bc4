/* A decoding process can do nothing but decode; what it must not have, it has not. */
#include "sandbox/confine.h"
#include "sandbox/zygote.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
 * Each returns what it got; 0 or more where it was allowed. */

static long open_to_write(void)
{
    return open("/tmp/tv3sd-sandbox-test", O_WRONLY | O_CREAT, 0600);
}

static long open_old(void)
{
    return syscall(SYS_open, "/etc/passwd", O_RDONLY);
}

static long make_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

static long make_unix_socket(void)
{
    return socket(AF_UNIX, SOCK_DGRAM, 0);
}

static long run_program(void)
{
    char *argv[] = {"true", NULL};
    return execv("/bin/true", argv);
}

static long make_process(void)
{
    return fork();
}

static long make_thread(void)
{
    return syscall(SYS_clone, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, 0,
                   0, 0, 0);
}

static long send_signal(void)
{
    return kill(getppid(), 0);
}

static long trace_parent(void)
{
    return ptrace(PTRACE_ATTACH, 1, NULL, NULL);
}

static long read_others_memory(void)
{
    return syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
}

static long map_code(void)
{
    void *at = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? -1 : 0;
}

static long make_memory_code(void)
{
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mprotect(at, 4096, PROT_READ | PROT_EXEC);
}

static long raise_limit(void)
{
    struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY};
    return setrlimit(RLIMIT_CPU, &r);
}

static long remove_file(void)
{
    return unlink("/tmp/tv3sd-sandbox-test");
}

static long make_folder(void)
{
    return mkdir("/tmp/tv3sd-sandbox-test", 0700);
}

static long leave_namespace(void)
{
    return unshare(CLONE_NEWUSER);
}

static long set_process(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static long set_action(void)
{
    return signal(SIGXCPU, SIG_IGN) == SIG_ERR ? -1 : 0;
}

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

#define KILLED_BY(status, number) (WIFSIGNALED(status) && WTERMSIG(status) == (number))

static void what_is_not_decoding_ends_the_process(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        long (*try)(void);
    } tries[] = {{"open to write", open_to_write},
                 {"open", open_old},
                 {"socket", make_socket},
                 {"UNIX socket", make_unix_socket},
                 {"exec", run_program},
                 {"fork", make_process},
                 {"thread", make_thread},
                 {"signal", send_signal},
                 {"ptrace", trace_parent},
                 {"process_vm_readv", read_others_memory},
                 {"code by mmap", map_code},
                 {"code by mprotect", make_memory_code},
                 {"setrlimit", raise_limit},
                 {"unlink", remove_file},
                 {"mkdir", make_folder},
                 {"unshare", leave_namespace},
                 {"prctl", set_process},
                 {"sigaction", set_action}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        int status = confined(tries[i].try);
        if (!KILLED_BY(status, SIGSYS))
            fail_msg("%s: status %x", tries[i].name, (unsigned)status);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_decoding_ends_the_process),
        cmocka_unit_test(decoding_goes_on),
        cmocka_unit_test(memory_and_time_have_an_end),
    };
    if (zygote_wanted(argc, argv))
        return zygote_main();
    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
