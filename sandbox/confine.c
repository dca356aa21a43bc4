#include "sandbox/confine_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int confine_namespaces(void)
{
    int wanted = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    return unshare(wanted) == 0 ? CONFINED_NAMESPACES : 0;
}

uint64_t confine_address_space(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%lu", &pages) != 1)
        pages = 0;
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- limits -------------------------------------------------------------------------------------
 */

enum err confine_limit(int what, rlim_t soft, rlim_t hard)
{
    struct rlimit now, r = {soft, hard};
    if (getrlimit(what, &now) == 0 && now.rlim_max != RLIM_INFINITY) {
        r.rlim_max = hard < now.rlim_max ? hard : now.rlim_max;
        r.rlim_cur = soft < r.rlim_max ? soft : r.rlim_max;
    }
    if (setrlimit(what, &r) != 0)
        return err_set(ERR_UNSUPPORTED, "a limit of a decoding process: %s", strerror(errno));
    return ERR_OK;
}

/* One byte of a core file is none, also where a program takes them. */
static enum err set_limits(uint64_t memory, uint32_t cpu_seconds)
{
    static const struct {
        int what;
        rlim_t most;
    } none[] = {{RLIMIT_NOFILE, 0}, {RLIMIT_FSIZE, 0},   {RLIMIT_NPROC, 0},
                {RLIMIT_CORE, 1},   {RLIMIT_MEMLOCK, 0}, {RLIMIT_MSGQUEUE, 0}};
    enum err e =
        confine_limit(RLIMIT_CPU, cpu_seconds, RLIM_INFINITY); /* soft: it may be allowed more */
    if (!e && !SANITIZED)
        e = confine_limit(RLIMIT_AS, memory, memory);
    for (size_t i = 0; !e && i < sizeof none / sizeof *none; i++)
        e = confine_limit(none[i].what, none[i].most, none[i].most);
    return e;
}

/* ---- the file system ----------------------------------------------------------------------------
 */

/* Everything that the first version knows is taken, and nothing is given back. */
static int forbid_files(void)
{
    const struct landlock_ruleset_attr all = {.handled_access_fs =
                                                  (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    long fd = syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (fd < 0)
        return 0;
    long r = syscall(SYS_landlock_restrict_self, (int)fd, 0);
    close((int)fd);
    return r == 0 ? CONFINED_LANDLOCK : 0;
}

/* ---- system calls -------------------------------------------------------------------------------
 */

static const int allowed[] = {
    SCMP_SYS(recvfrom),        SCMP_SYS(sendto),
    SCMP_SYS(pread64),         SCMP_SYS(lseek),
    SCMP_SYS(close),           SCMP_SYS(munmap),
    SCMP_SYS(mremap),          SCMP_SYS(brk),
    SCMP_SYS(madvise),         SCMP_SYS(futex),
    SCMP_SYS(sched_yield),     SCMP_SYS(sched_getaffinity),
    SCMP_SYS(clock_gettime),   SCMP_SYS(gettimeofday),
    SCMP_SYS(nanosleep),       SCMP_SYS(clock_nanosleep),
    SCMP_SYS(restart_syscall), SCMP_SYS(getrandom),
    SCMP_SYS(getpid),          SCMP_SYS(gettid),
    SCMP_SYS(rt_sigreturn),    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
#if SANITIZED
    SCMP_SYS(write), /* what they found */
    SCMP_SYS(sigaltstack),     SCMP_SYS(getrusage),
#endif
};

/* To look for a file is not the end, it is merely in vain: libc does so in innocence, for tables of
 * character sets where a broadcast names its service. To write one is. */
static int refuse_reading(scmp_filter_ctx filter)
{
    const struct scmp_arg_cmp reads =
        SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY);
    int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1, reads);
    return r ? r : seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(newfstatat), 0);
}

/* The limit is one on addresses, so any kind will do. */
static int add_own(scmp_filter_ctx filter)
{
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, CONFINE_NO_CODE);
    return r ? r : refuse_reading(filter);
}

/* Memory that can be run is not to be had, so no code comes in by a picture. abort() may send its
 * signal, to itself. Signals cannot be blocked: one says that the time is over. */
static int add_conditions(scmp_filter_ctx filter)
{
    const struct scmp_arg_cmp own = {
        .arg = 0, .op = SCMP_CMP_EQ, .datum_a = (scmp_datum_t)getpid()};
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, CONFINE_NO_CODE);
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, own);
    if (!r && !SANITIZED)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(rt_sigprocmask), 0);
    if (!r && SANITIZED)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigprocmask), 0);
    return r;
}

enum err confine_calls(int (*add_more)(scmp_filter_ctx filter), bool threads)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return err_set(ERR_UNSUPPORTED, "seccomp is not to be had");
    int r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (!r)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    if (!r && threads)
        r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; !r && i < sizeof allowed / sizeof *allowed; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!r)
        r = add_conditions(filter);
    if (!r)
        r = add_more(filter);
    if (!r)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r ? err_set(ERR_UNSUPPORTED, "seccomp: %s", strerror(-r)) : ERR_OK;
}

enum err confine(uint64_t memory, uint32_t cpu_seconds, int *done)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(ERR_UNSUPPORTED, "no_new_privs: %s", strerror(errno));
    *done |= forbid_files(); /* which opens a file, the last */
    enum err e = set_limits(memory, cpu_seconds);
    if (!e)
        e = confine_calls(add_own, false);
    if (!e)
        *done |= CONFINED_SECCOMP;
    return e;
}
