#include "sandbox/zygote.h"

#include "sandbox/channel.h"
#include "sandbox/child.h"
#include "sandbox/confine.h"
#include "sandbox/wire.h"

#include "media/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

bool zygote_wanted(int argc, char **argv)
{
    struct stat st;
    return argc == 1 && strcmp(argv[0], ZYGOTE_NAME) == 0 && fstat(ZYGOTE_SOCKET, &st) == 0 &&
           S_ISSOCK(st.st_mode);
}

/* ---- children -----------------------------------------------------------------------------------
 * Nothing here waits: one question of one thread of the daemon's is answered after the other. */

static void spawn(const struct child_birth *birth, const struct child_order *order, const int *fd,
                  struct zygote_reply *reply, int *child)
{
    pid_t pid = fork();
    if (pid == 0)
        child_main(order, birth, fd);
    if (pid > 0)
        *child = pidfd_open(pid, 0);
    if (pid < 0 || *child < 0)
        reply->error = errno;
    if (pid > 0)
        reply->pid = pid;
}

/* Its daemon never heard of it. */
static void end_unknown(pid_t pid)
{
    kill(pid, SIGKILL); /* ours and not yet waited for, so it has its number still */
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* By the descriptor, so that it is the one that is meant: another zygote's is ECHILD. EAGAIN: it
 * has not ended, or a debugger has it. */
static void bury(int child, struct zygote_reply *reply)
{
    siginfo_t end = {0};
    if (waitid(P_PIDFD, (id_t)child, &end, WEXITED | WNOHANG) != 0)
        reply->error = errno;
    else if (end.si_pid == 0)
        reply->error = EAGAIN;
    else if (end.si_code != CLD_EXITED)
        reply->signal = end.si_status;
}

/* The limit is on all that it has used since its birth. A child that is not reaped, as waitid sees,
 * has its number still. */
static void allow(int child, pid_t pid, uint32_t seconds)
{
    siginfo_t end;
    clockid_t clock;
    struct timespec used;
    struct rlimit r;
    if (waitid(P_PIDFD, (id_t)child, &end, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0 ||
        prlimit(pid, RLIMIT_CPU, NULL, &r) != 0)
        return;
    rlim_t most = (rlim_t)used.tv_sec + seconds;
    r.rlim_cur = most < r.rlim_max ? most : r.rlim_max;
    prlimit(pid, RLIMIT_CPU, &r, NULL);
}

/* ---- requests -----------------------------------------------------------------------------------
 */

static void answer(const struct child_birth *birth, const struct zygote_request *q, const int *fd)
{
    struct zygote_reply reply = {0};
    int child = -1;
    if (q->what == ZYGOTE_SPAWN) {
        spawn(birth, &q->order, fd + 1, &reply, &child);
        bool known = channel_send(fd[0], &reply, sizeof reply, &child, child >= 0);
        if (reply.pid && (!known || reply.error))
            end_unknown(reply.pid);
        if (child >= 0)
            close(child);
    } else if (q->what == ZYGOTE_BURY) {
        bury(fd[0], &reply);
        if (fd[1] >= 0)
            channel_send(fd[1], &reply, sizeof reply, NULL, 0);
    } else {
        allow(fd[0], q->pid, q->order.cpu_seconds);
    }
}

/* Who ends the daemon's group, by Ctrl-C or systemctl stop, ends this by the daemon's end. */
static void ignore_signals(void)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
}

int zygote_main(void)
{
    struct child_birth birth = {0};
    struct zygote_request q;
    int fd[CHANNEL_FDS];
    close_range(ZYGOTE_SOCKET + 1, ~0u, 0);
    ignore_signals();
    prctl(PR_SET_NAME, ZYGOTE_NAME, 0, 0, 0);
    media_warm();
    birth.confined = confine_namespaces();
    birth.zygote = getpid();
    birth.address_space = confine_address_space();
    while (channel_receive(ZYGOTE_SOCKET, &q, sizeof q, fd) == sizeof q) {
        answer(&birth, &q, fd);
        channel_close_all(fd);
    }
    _exit(0); /* the kernel ends the children; there is nothing for who looks for leaks */
}
