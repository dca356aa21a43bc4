/* What a decoding process tries in vain: shared by the tests of the two kinds of confinement. */
#ifndef TV3S_TESTS_FORBIDDEN_H
#define TV3S_TESTS_FORBIDDEN_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLED_BY(status, number) (WIFSIGNALED(status) && WTERMSIG(status) == (number))

/* Each returns what it got; 0 or more where it was allowed. */

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

/* The channel carries replies, and no descriptors. */
static long pass_descriptor(void)
{
    struct msghdr m = {0};
    return sendmsg(0, &m, 0);
}

static long take_descriptor(void)
{
    struct msghdr m = {0};
    return recvmsg(0, &m, 0);
}

static long shrink_shared_memory(void)
{
    return ftruncate(0, 0);
}

static long make_memory_file(void)
{
    return memfd_create("x", 0);
}

static long steal_descriptor(void)
{
    return syscall(SYS_pidfd_getfd, 0, 0, 0);
}

static long make_ring(void)
{
    return syscall(SYS_io_uring_setup, 1, NULL);
}

static long handle_faults(void)
{
    return syscall(SYS_userfaultfd, 0);
}

static long load_program(void)
{
    return syscall(SYS_bpf, 0, NULL, 0);
}

static long read_keyring(void)
{
    return syscall(SYS_keyctl, 0, 0);
}

static long protect_by_key(void)
{
    return syscall(SYS_pkey_mprotect, NULL, 0, PROT_EXEC, -1);
}

static long imply_code(void)
{
    return syscall(SYS_personality, 0x0400000); /* READ_IMPLIES_EXEC */
}

#ifdef __x86_64__
/* A call that is allowed, by another table's number. */
static long call_by_x32(void)
{
    return syscall(0x40000000 | SYS_getpid);
}
#endif

/* On a device threads are made, and a descriptor is taken. */
static const struct {
    const char *name;
    long (*try)(void);
    bool on_device;
} forbidden[] = {
    {"open to write", open_to_write, false},
    {"open", open_old, false},
    {"socket", make_socket, false},
    {"UNIX socket", make_unix_socket, false},
    {"exec", run_program, false},
    {"fork", make_process, false},
    {"thread", make_thread, true},
    {"signal", send_signal, false},
    {"ptrace", trace_parent, false},
    {"process_vm_readv", read_others_memory, false},
    {"code by mmap", map_code, false},
    {"code by mprotect", make_memory_code, false},
    {"setrlimit", raise_limit, false},
    {"unlink", remove_file, false},
    {"mkdir", make_folder, false},
    {"unshare", leave_namespace, false},
    {"prctl", set_process, false},
    {"sigaction", set_action, false},
    {"sendmsg", pass_descriptor, false},
    {"recvmsg", take_descriptor, true},
    {"ftruncate", shrink_shared_memory, false},
    {"memfd_create", make_memory_file, false},
    {"pidfd_getfd", steal_descriptor, false},
    {"io_uring_setup", make_ring, false},
    {"userfaultfd", handle_faults, false},
    {"bpf", load_program, false},
    {"keyctl", read_keyring, false},
    {"pkey_mprotect", protect_by_key, false},
    {"personality", imply_code, false},
#ifdef __x86_64__
    {"x32", call_by_x32, false},
#endif
};
enum { FORBIDDEN = sizeof forbidden / sizeof *forbidden };

#endif
