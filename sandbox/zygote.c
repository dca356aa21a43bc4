#include "sandbox/zygote.h"

#include "sandbox/child.h"
#include "sandbox/confine.h"
#include "sandbox/wire.h"

#include "media/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct zygote {
    struct child_birth birth; /* what all children have in common */
    pid_t *children;
    size_t count, room;
};

bool zygote_wanted(int argc, char **argv)
{
    struct stat st;
    return argc == 1 && strcmp(argv[0], ZYGOTE_NAME) == 0 && fstat(ZYGOTE_SOCKET, &st) == 0 &&
           S_ISSOCK(st.st_mode);
}

/* ---- children -----------------------------------------------------------------------------------
 */

/* Returns its place; `count` for none. */
static size_t find(const struct zygote *z, pid_t pid)
{
    size_t i = 0;
    while (i < z->count && z->children[i] != pid)
        i++;
    return i;
}

static int reserve(struct zygote *z)
{
    if (z->count < z->room)
        return 0;
    size_t room = z->room ? 2 * z->room : 16;
    pid_t *grown = realloc(z->children, room * sizeof *grown);
    if (!grown)
        return ENOMEM;
    z->children = grown;
    z->room = room;
    return 0;
}

static void spawn(struct zygote *z, const struct child_order *order, int fd[CHILD_FDS],
                  struct zygote_reply *reply)
{
    reply->error = reserve(z);
    if (reply->error)
        return;
    pid_t pid = fork();
    if (pid == 0)
        child_main(order, &z->birth, fd);
    if (pid < 0)
        reply->error = errno;
    else
        z->children[z->count++] = reply->pid = pid;
}

static int wait_for(pid_t pid)
{
    int status = 0;
    kill(pid, SIGKILL); /* no effect on one that has ended: it is ours and not yet waited for */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

static void bury(struct zygote *z, pid_t pid, struct zygote_reply *reply)
{
    size_t i = find(z, pid);
    if (i == z->count) {
        reply->error = ESRCH;
        return;
    }
    reply->status = wait_for(pid);
    z->children[i] = z->children[--z->count];
}

/* The limit is on all that it has used since its birth. */
static void allow(struct zygote *z, pid_t pid, uint32_t seconds, struct zygote_reply *reply)
{
    clockid_t clock;
    struct timespec used;
    struct rlimit r;
    if (find(z, pid) == z->count)
        reply->error = ESRCH;
    else if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0 ||
             prlimit(pid, RLIMIT_CPU, NULL, &r) != 0)
        reply->error = ESRCH;
    if (reply->error)
        return;
    rlim_t most = (rlim_t)used.tv_sec + seconds;
    r.rlim_cur = most < r.rlim_max ? most : r.rlim_max;
    if (prlimit(pid, RLIMIT_CPU, &r, NULL) != 0)
        reply->error = errno;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

/* Descriptors that come with a request; -1 where there is none. */
static bool receive(struct zygote_request *q, int fd[CHILD_FDS])
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(CHILD_FDS * sizeof(int))];
    } control;
    struct iovec bytes = {q, sizeof *q};
    struct msghdr m = {.msg_iov = &bytes,
                       .msg_iovlen = 1,
                       .msg_control = control.space,
                       .msg_controllen = sizeof control.space};
    ssize_t n;
    for (int i = 0; i < CHILD_FDS; i++)
        fd[i] = -1;
    while ((n = recvmsg(ZYGOTE_SOCKET, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    return n == sizeof *q;
}

static void answer(struct zygote *z)
{
    struct zygote_request q = {0};
    struct zygote_reply reply;
    int fd[CHILD_FDS];
    while (receive(&q, fd)) {
        reply = (struct zygote_reply){0};
        if (q.what == ZYGOTE_SPAWN)
            spawn(z, &q.order, fd, &reply);
        else if (q.what == ZYGOTE_BURY)
            bury(z, q.pid, &reply);
        else
            allow(z, q.pid, q.order.cpu_seconds, &reply);
        for (int i = 0; i < CHILD_FDS; i++)
            if (fd[i] >= 0)
                close(fd[i]);
        if (send(ZYGOTE_SOCKET, &reply, sizeof reply, MSG_NOSIGNAL) != sizeof reply)
            return;
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
    struct zygote z = {0};
    close_range(ZYGOTE_SOCKET + 1, ~0u, 0);
    ignore_signals();
    prctl(PR_SET_NAME, ZYGOTE_NAME, 0, 0, 0);
    media_warm();
    z.birth.confined = confine_namespaces();
    z.birth.zygote = getpid();
    z.birth.address_space = confine_address_space();
    answer(&z);
    for (size_t i = 0; i < z.count; i++)
        kill(z.children[i], SIGKILL);
    for (size_t i = 0; i < z.count; i++)
        wait_for(z.children[i]);
    free(z.children);
    _exit(0); /* there is nothing to clean up, nor to be found by who looks for leaks */
}
