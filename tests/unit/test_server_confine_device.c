/* A decoding process on a CUDA device may do more than another, so that the driver's library works
 * in it. What it must not have it has not; nor have the threads that the library had before. */
#include "sandbox/confine.h"

#include "tests/unit/forbidden.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { MEMORY = 256 << 20, CPU_SECONDS = 2, RIGHT = 7, WRONG = 8 };

/* ---- a process ----------------------------------------------------------------------------------
 */

/* What the driver has: a thread from before the filter. */
static sem_t begin;
static long (*late)(void);

static void *try_late(void *unused)
{
    (void)unused;
    while (sem_wait(&begin) != 0)
        ;
    _exit((int)(late() & 63));
}

static char folder[] = "/tmp/tv3sd-confine-XXXXXX", file[64];

/* Its status. `by_thread`: the thread from before tries it. */
static int confined(long (*try)(void), bool by_thread)
{
    pid_t pid = fork();
    if (pid == 0) {
        const char *const folders[] = {folder, NULL};
        struct rlimit none = {0, 0};
        pthread_t thread;
        int done = 0;
        setrlimit(RLIMIT_CORE, &none);
        late = try;
        sem_init(&begin, 0, 0);
        if (confine_device_files(folders, &done) ||
            pthread_create(&thread, NULL, try_late, NULL) != 0 ||
            confine_device(MEMORY, CPU_SECONDS, &done) ||
            done != (CONFINED_LANDLOCK | CONFINED_SECCOMP))
            _exit(99);
        if (!by_thread)
            _exit((int)(try() & 63));
        sem_post(&begin);
        pthread_join(thread, NULL);
        _exit(98);
    }
    int status = -1;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_right(const char *name, long (*try)(void), bool by_thread)
{
    int status = confined(try, by_thread);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != RIGHT)
        fail_msg("%s%s: status %x", name, by_thread ? ", by a thread" : "", (unsigned)status);
}

static void assert_killed(const char *name, long (*try)(void), bool by_thread)
{
    int status = confined(try, by_thread);
    if (!KILLED_BY(status, SIGSYS))
        fail_msg("%s%s: status %x", name, by_thread ? ", by a thread" : "", (unsigned)status);
}

/* ---- what ends it -------------------------------------------------------------------------------
 */

/* A request of the terminal's. */
static long ask_terminal(void)
{
    char c = 'x';
    return ioctl(0, TIOCSTI, &c);
}

static long make_immutable(void)
{
    int flags = FS_IMMUTABLE_FL;
    return ioctl(0, FS_IOC_SETFLAGS, &flags);
}

static long set_limit(void)
{
    struct rlimit r = {0, 0};
    return prlimit(getppid(), RLIMIT_NOFILE, &r, NULL);
}

static long lock_file(void)
{
    struct flock l = {.l_type = F_RDLCK};
    return fcntl(0, F_SETLK, &l);
}

static long make_other_process(void)
{
    return syscall(SYS_clone, CLONE_VM | SIGCHLD, 0, 0, 0, 0);
}

static int end_thread(void *unused)
{
    (void)unused;
    return 0;
}

/* Which the rights that it has in its namespace would let it have. */
static long make_thread_in_other_network(void)
{
    static char stack[16384];
    return clone(end_thread, stack + sizeof stack,
                 CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWNET,
                 NULL);
}

static void what_no_decoder_needs_ends_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < FORBIDDEN; i++)
        if (!forbidden[i].on_device)
            assert_killed(forbidden[i].name, forbidden[i].try, false);
    assert_killed("TIOCSTI", ask_terminal, false);
    assert_killed("FS_IOC_SETFLAGS", make_immutable, false);
    assert_killed("prlimit", set_limit, false);
    assert_killed("a lock", lock_file, false);
    assert_killed("clone", make_other_process, false);
    assert_killed("a network", make_thread_in_other_network, false);
}

static void threads_from_before_are_held_too(void **state)
{
    (void)state;
    assert_killed("socket", make_socket, true);
    assert_killed("exec", run_program, true);
    assert_killed("code by mmap", map_code, true);
    assert_killed("open to write", open_to_write, true);
}

/* ---- what is in vain ----------------------------------------------------------------------------
 */

static bool refused(const char *path, int flags)
{
    return open(path, flags) == -1 && errno == EACCES;
}

static long read_files(void)
{
    return refused("/etc/passwd", O_RDONLY) && refused("/tmp", O_RDONLY | O_DIRECTORY) &&
                   refused("/proc/1/environ", O_RDONLY) && refused("/dev/tty", O_RDWR)
               ? RIGHT
               : WRONG;
}

/* Its own memory by a file, which knows of no protection. */
static long write_files(void)
{
    return refused(file, O_RDWR) && refused("/proc/self/mem", O_RDWR) &&
                   refused("/proc/self/oom_score_adj", O_WRONLY)
               ? RIGHT
               : WRONG;
}

static long change_others(void)
{
    cpu_set_t one;
    struct sched_param p = {0};
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    return sched_setaffinity(getppid(), sizeof one, &one) == -1 && errno == EPERM &&
                   sched_setscheduler(getppid(), SCHED_IDLE, &p) == -1 && errno == EPERM
               ? RIGHT
               : WRONG;
}

static long clone_unseen(void)
{
    struct clone_args a = {.exit_signal = SIGCHLD};
    return syscall(SYS_clone3, &a, sizeof a) == -1 && errno == ENOSYS ? RIGHT : WRONG;
}

static long take_memory(void)
{
    return malloc((size_t)2 * MEMORY) == NULL ? RIGHT : WRONG;
}

static bool has_no_memory(int flags)
{
    void *at = mmap(NULL, (size_t)2 * MEMORY, PROT_READ | PROT_WRITE, flags, -1, 0);
    return at == MAP_FAILED && errno == ENOMEM;
}

/* Of what the kernel does not count by the limit. */
static long take_uncounted_memory(void)
{
    return has_no_memory(MAP_SHARED | MAP_ANONYMOUS) &&
                   has_no_memory(MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN) &&
                   refused("/dev/zero", O_RDWR)
               ? RIGHT
               : WRONG;
}

/* They would take the place of the daemon's. */
static long know_an_end_of_threads(void)
{
    struct rlimit r;
    return prlimit(0, RLIMIT_NPROC, NULL, &r) == 0 && r.rlim_max <= 4096 ? RIGHT : WRONG;
}

static void files_and_others_are_out_of_reach(void **state)
{
    (void)state;
    for (int by_thread = 0; by_thread < 2; by_thread++) {
        assert_right("reading", read_files, by_thread);
        assert_right("writing", write_files, by_thread);
        assert_right("others", change_others, by_thread);
        assert_right("clone3", clone_unseen, by_thread);
        assert_right("threads", know_an_end_of_threads, by_thread);
        assert_right("uncounted memory", take_uncounted_memory, by_thread);
        if (!SANITIZED)
            assert_right("memory", take_memory, by_thread);
    }
}

/* ---- what a driver does -------------------------------------------------------------------------
 */

static void *return_right(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)RIGHT;
}

static long make_a_thread(void)
{
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, return_right, NULL) != 0)
        return WRONG;
    pthread_join(thread, &result);
    return (long)(intptr_t)result;
}

static long wait_for_an_event(void)
{
    eventfd_t n = 0;
    int fd = eventfd(0, EFD_CLOEXEC);
    return fd >= 0 && eventfd_write(fd, 3) == 0 && eventfd_read(fd, &n) == 0 && n == 3 ? RIGHT
                                                                                       : WRONG;
}

/* Of nvidia.ko and nvidia-uvm.ko, to a file that is neither's. */
static long ask_modules(void)
{
    static const unsigned long request[] = {0xc020462a, 0x27, 0x30000001};
    for (size_t i = 0; i < sizeof request / sizeof *request; i++)
        if (ioctl(1000, request[i], NULL) != -1 || errno != EBADF)
            return WRONG;
    return RIGHT;
}

/* Addresses without memory, more than any limit on it. */
static long reserve(void)
{
    void *at =
        mmap(NULL, (size_t)64 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? WRONG : RIGHT;
}

static long read_a_library(void)
{
    char c;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, &c, 1) == 1 && c == 'x' ? RIGHT : WRONG;
}

static long read_the_system(void)
{
    return open("/sys/devices/system/cpu/online", O_RDONLY | O_CLOEXEC) >= 0 &&
                   open("/proc/self/maps", O_RDONLY | O_CLOEXEC) >= 0
               ? RIGHT
               : WRONG;
}

static void a_driver_works(void **state)
{
    (void)state;
    assert_right("a thread", make_a_thread, false);
    assert_right("an event", wait_for_an_event, false);
    assert_right("ioctl", ask_modules, false);
    assert_right("addresses", reserve, false);
    assert_right("a library", read_a_library, false);
    assert_right("the system", read_the_system, false);
}

static int make_folder_of_libraries(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/library", folder);
    FILE *f = fopen(file, "we");
    return f && fputs("x", f) >= 0 && fclose(f) == 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return remove(file) || remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_no_decoder_needs_ends_it),
        cmocka_unit_test(threads_from_before_are_held_too),
        cmocka_unit_test(files_and_others_are_out_of_reach),
        cmocka_unit_test(a_driver_works),
    };
    return cmocka_run_group_tests_name("confine_device", tests, make_folder_of_libraries,
                                       remove_folder);
}
