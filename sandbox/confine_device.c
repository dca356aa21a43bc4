/* What a decoding process on a CUDA device may do besides.
 *
 * The driver's library opens /dev/nvidia* when a decoder is made, so files can be opened; which,
 * Landlock says, and without Landlock there is no such process. Landlock holds the thread that asks
 * for it and those that it makes later, so it comes before the driver is started, and leaves to be
 * read what the driver reads then: its libraries, /sys, some of /proc. Nothing of that is a secret,
 * nothing can be written, and what is read cannot become code. The filter of calls comes after the
 * start, and holds all threads.
 *
 * Beside the files it is ioctl that matters: the driver's kernel module is reached through it, and
 * that is a lot of code (docs/threat-model.md). Only its two modules' own requests go through.
 * Threads may be made, for a decoder has some, up to a number; processes may not. The limit on
 * memory is one on what can be written and is the process' own, since addresses are reserved by the
 * terabyte. What the kernel does not count by it is not to be had: memory that is shared and no
 * file's, and stacks that are large from the start. */
#include "sandbox/confine_parts.h"

#include "base/try.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 256 };    /* a driver has some twenty open */
enum { THREADS = 4096 }; /* of all decoders, or of all that the user has: the unit has 8192 */

/* ---- files --------------------------------------------------------------------------------------
 */

/* Of Landlock's versions 2, 3 and 5, which the system's header may not know. */
enum { ACCESS_REFER = 1 << 13, ACCESS_TRUNCATE = 1 << 14, ACCESS_IOCTL_DEV = 1 << 15 };
enum {
    READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    USE = READ | LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_IOCTL_DEV
};

/* All that this kernel can take away; 0: it has no Landlock. */
static uint64_t all_rights(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    uint64_t all = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    if (version < 1)
        return 0;
    return all | (version >= 2 ? ACCESS_REFER : 0) | (version >= 3 ? ACCESS_TRUNCATE : 0) |
           (version >= 5 ? ACCESS_IOCTL_DEV : 0);
}

/* Where it is there, and all that is in it. */
static void leave(int ruleset, const char *path, uint64_t rights)
{
    struct stat st;
    struct landlock_path_beneath_attr beneath = {.allowed_access = rights,
                                                 .parent_fd = open(path, O_PATH | O_CLOEXEC)};
    if (beneath.parent_fd < 0)
        return;
    if (fstat(beneath.parent_fd, &st) == 0) {
        if (!S_ISDIR(st.st_mode))
            beneath.allowed_access &= ~(uint64_t)LANDLOCK_ACCESS_FS_READ_DIR;
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
    }
    close(beneath.parent_fd);
}

static void leave_driver(int ruleset, uint64_t all)
{
    static const char *const read[] = {"/proc/driver/nvidia",
                                       "/proc/driver/nvidia-uvm",
                                       "/proc/self",
                                       "/proc/cpuinfo",
                                       "/proc/meminfo",
                                       "/proc/devices",
                                       "/proc/modules",
                                       "/proc/stat",
                                       "/proc/version",
                                       "/proc/sys/vm",
                                       "/sys",
                                       "/etc/ld.so.cache",
                                       "/usr/lib",
                                       "/lib",
                                       "/lib64"};
    glob_t devices;
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        leave(ruleset, read[i], READ);
    leave(ruleset, "/dev/null", USE & all); /* not /dev/zero: mapped it is memory without a limit */
    if (glob("/dev/nvidia*", 0, NULL, &devices) == 0)
        for (size_t i = 0; i < devices.gl_pathc; i++)
            leave(ruleset, devices.gl_pathv[i], USE & all);
    globfree(&devices);
}

enum err confine_device_files(const char *const *folders, int *done)
{
    const uint64_t all = all_rights();
    const struct landlock_ruleset_attr attr = {.handled_access_fs = all};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(ERR_UNSUPPORTED, "no_new_privs: %s", strerror(errno));
    long ruleset = all ? syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0) : -1;
    if (ruleset < 0)
        return err_set(ERR_UNSUPPORTED, "there is no Landlock, which has to hold it");
    leave_driver((int)ruleset, all);
    for (; *folders; folders++)
        leave((int)ruleset, *folders, READ);
    long r = syscall(SYS_landlock_restrict_self, (int)ruleset, 0);
    int why = errno;
    close((int)ruleset);
    if (r != 0)
        return err_set(ERR_UNSUPPORTED, "Landlock: %s", strerror(why));
    *done |= CONFINED_LANDLOCK;
    return ERR_OK;
}

/* ---- system calls -------------------------------------------------------------------------------
 */

static const int allowed[] = {
    SCMP_SYS(recvmsg), /* the memory's descriptor */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(pipe2),
    SCMP_SYS(eventfd2),
    SCMP_SYS(dup),
    /* files, of which Landlock holds the contents */
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(statfs),
    SCMP_SYS(fstatfs),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),
    SCMP_SYS(getcwd),
    /* memory of its own */
    SCMP_SYS(mincore),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(msync),
    SCMP_SYS(get_mempolicy),
    SCMP_SYS(set_mempolicy),
    SCMP_SYS(mbind),
    /* threads of its own */
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(membarrier),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(sched_getparam),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(sched_get_priority_max),
    SCMP_SYS(sched_get_priority_min),
    /* what it is, and where */
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getppid),
    SCMP_SYS(getcpu),
    SCMP_SYS(getrlimit),
    SCMP_SYS(getrusage),
    SCMP_SYS(times),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(clock_getres),
};

/* The same request of ioctl, fcntl or prctl as often as it has arguments of interest. */
static int add_values(scmp_filter_ctx filter, int call, unsigned arg, const uint64_t *value,
                      size_t count)
{
    int r = 0;
    for (size_t i = 0; !r && i < count; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1,
                             SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, 0xffffffff, value[i]));
    return r;
}

/* Those of nvidia.ko have its letter, those of nvidia-uvm.ko are small numbers but for two. */
static int add_requests(scmp_filter_ctx filter)
{
    static const uint64_t uvm[] = {0x30000001, 0x30000002};
    const struct scmp_arg_cmp ours = SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 'F' << 8),
                              small = SCMP_A1(SCMP_CMP_MASKED_EQ, 0xfffff000, 0);
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, ours);
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, small);
    return r ? r : add_values(filter, SCMP_SYS(ioctl), 1, uvm, sizeof uvm / sizeof *uvm);
}

/* Memory of its own, that the limit counts, and what is a file's or a device's. */
static int add_memory(scmp_filter_ctx filter)
{
    enum { OWN = MAP_TYPE | MAP_GROWSDOWN, SHARED = MAP_TYPE | MAP_ANONYMOUS };
    const struct {
        uint32_t action;
        uint64_t mask, value;
    } kind[] = {
        {SCMP_ACT_ALLOW, OWN, MAP_PRIVATE},
        {SCMP_ACT_ALLOW, SHARED, MAP_SHARED},
        {SCMP_ACT_ERRNO(ENOMEM), OWN, MAP_PRIVATE | MAP_GROWSDOWN},
        {SCMP_ACT_ERRNO(ENOMEM), SHARED, MAP_SHARED | MAP_ANONYMOUS},
    };
    int r = 0;
    for (size_t i = 0; !r && i < sizeof kind / sizeof *kind; i++)
        r = seccomp_rule_add(filter, kind[i].action, SCMP_SYS(mmap), 2, CONFINE_NO_CODE,
                             SCMP_A3(SCMP_CMP_MASKED_EQ, kind[i].mask, kind[i].value));
    return r;
}

/* A thread shares all there is, namespaces too. clone3 has its flags in memory, where no filter
 * sees them: libc takes the other where it is not there. */
static int add_threads(scmp_filter_ctx filter)
{
    const uint64_t thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD,
                   other = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                           CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    const struct scmp_arg_cmp flags = SCMP_A0(SCMP_CMP_MASKED_EQ, thread | other, thread);
    static const int refused[] = {SCMP_SYS(sched_setaffinity), SCMP_SYS(sched_setscheduler),
                                  SCMP_SYS(sched_setparam), SCMP_SYS(setpriority)};
    int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, flags);
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    for (size_t i = 0; !r && i < sizeof refused / sizeof *refused; i++) /* of others too */
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
    return r;
}

static int add_device(scmp_filter_ctx filter)
{
    static const uint64_t names[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA},
                          flags[] = {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC};
    const struct scmp_arg_cmp there = SCMP_A2(SCMP_CMP_MASKED_EQ, O_CREAT | O_TRUNC | O_TMPFILE, 0),
                              folder = SCMP_A2(SCMP_CMP_MASKED_EQ, O_CREAT | O_TRUNC | O_TMPFILE,
                                               O_DIRECTORY),
                              asks = SCMP_A2(SCMP_CMP_EQ, 0, 0);
    int r = 0;
    for (size_t i = 0; !r && i < sizeof allowed / sizeof *allowed; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, there);
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, folder);
    if (!r) /* a limit is asked for, not set */
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, asks);
    if (!r)
        r = add_values(filter, SCMP_SYS(prctl), 0, names, sizeof names / sizeof *names);
    if (!r)
        r = add_values(filter, SCMP_SYS(fcntl), 1, flags, sizeof flags / sizeof *flags);
    if (!r)
        r = add_requests(filter);
    if (!r)
        r = add_memory(filter);
    return r ? r : add_threads(filter);
}

/* ---- limits -------------------------------------------------------------------------------------
 */

/* Bytes that it can write and has for itself now. */
static uint64_t data_size(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages) != 1)
        pages = 0;
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static enum err set_limits(uint64_t memory, uint32_t cpu_seconds)
{
    const rlim_t data = data_size() + memory;
    TRY(confine_limit(RLIMIT_CPU, cpu_seconds, RLIM_INFINITY));
    if (!SANITIZED)
        TRY(confine_limit(RLIMIT_DATA, data, data));
    TRY(confine_limit(RLIMIT_NOFILE, FILES, FILES));
    TRY(confine_limit(RLIMIT_NPROC, THREADS, THREADS));
    TRY(confine_limit(RLIMIT_FSIZE, 0, 0));
    TRY(confine_limit(RLIMIT_CORE, 1, 1));
    TRY(confine_limit(RLIMIT_MEMLOCK, 0, 0));
    return confine_limit(RLIMIT_MSGQUEUE, 0, 0);
}

enum err confine_device(uint64_t memory, uint32_t cpu_seconds, int *done)
{
    TRY(set_limits(memory, cpu_seconds));
    TRY(confine_calls(add_device, true));
    *done |= CONFINED_SECCOMP;
    return ERR_OK;
}
