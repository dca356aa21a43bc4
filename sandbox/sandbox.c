/* The zygote from outside.
 *
 * One question and one answer at a time, under the lock. A zygote that does not answer, or is gone,
 * is ended with all its children (the kernel sees to that), and the next question starts another:
 * so children of the old one are found dead by whoever waits for them. */
#include "sandbox/sandbox.h"

#include "sandbox/confine.h"
#include "sandbox/host.h"
#include "sandbox/link.h"
#include "sandbox/zygote.h"

#include "base/try.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_SECONDS = 20, CPU_SLACK_SECONDS = 60 };

struct sandbox {
    struct sandbox_options o;
    pthread_mutex_t lock;
    pid_t zygote; /* 0: none now */
    int fd;
    char means[48];
};

/* ---- the zygote's life --------------------------------------------------------------------------
 */

/* Of our environment it gets what the loader and the sanitizers read. */
static void copy_environment(char *out[], int most)
{
    static const char *const kept[] = {
        "LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS="};
    int n = 0;
    for (char **v = environ; *v && n < most; v++)
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (strncmp(*v, kept[i], strlen(kept[i])) == 0 && n < most)
                out[n++] = *v;
    out[n] = NULL;
}

static int start_program(int socket, pid_t *pid)
{
    enum { KEPT_MAX = 8 };
    char *argv[] = {ZYGOTE_NAME, NULL}, *env[KEPT_MAX + 1];
    posix_spawn_file_actions_t files;
    int r = posix_spawn_file_actions_init(&files);
    if (r)
        return r;
    copy_environment(env, KEPT_MAX);
    r = posix_spawn_file_actions_adddup2(&files, socket, ZYGOTE_SOCKET);
    if (!r)
        r = posix_spawn(pid, "/proc/self/exe", &files, NULL, argv, env);
    posix_spawn_file_actions_destroy(&files);
    return r;
}

static enum err start_zygote(struct sandbox *s)
{
    const struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(ERR_IO, "a socket of the decoders: %s", strerror(errno));
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    int r = start_program(pair[1], &s->zygote);
    close(pair[1]);
    if (r) {
        close(pair[0]);
        s->zygote = 0;
        return err_set(ERR_IO, "the process of the decoders does not start: %s", strerror(r));
    }
    s->fd = pair[0];
    return ERR_OK;
}

static void end_zygote(struct sandbox *s, bool kindly)
{
    if (!s->zygote)
        return;
    close(s->fd);
    if (!kindly)
        kill(s->zygote, SIGKILL);
    while (waitpid(s->zygote, NULL, 0) < 0 && errno == EINTR)
        ;
    s->zygote = 0;
}

/* ---- questions ----------------------------------------------------------------------------------
 */

static bool send_request(int to, const struct zygote_request *q, const int *fd, int fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control = {0};
    struct iovec bytes = {(void *)q, sizeof *q};
    struct msghdr m = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fds) {
        size_t len = (size_t)fds * sizeof *fd;
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(len);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(len);
        memcpy(CMSG_DATA(c), fd, len);
    }
    return sendmsg(to, &m, MSG_NOSIGNAL) == sizeof *q;
}

/* With the lock held. False: no zygote, or it is gone now. */
static bool ask(struct sandbox *s, const struct zygote_request *q, const int *fd, int fds,
                struct zygote_reply *reply)
{
    ssize_t n = -1;
    if (!s->zygote)
        return false;
    if (send_request(s->fd, q, fd, fds))
        while ((n = recv(s->fd, reply, sizeof *reply, 0)) < 0 && errno == EINTR)
            ;
    if (n == sizeof *reply)
        return true;
    end_zygote(s, false);
    return false;
}

enum err host_spawn(struct sandbox *s, const struct child_order *order, int socket, int memory,
                    int file, pid_t *pid)
{
    const struct zygote_request q = {.what = ZYGOTE_SPAWN, .order = *order};
    const int fd[3] = {socket, memory, file};
    struct zygote_reply reply = {.error = EIO};
    enum err e = ERR_OK;
    bool answered = false;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; !e && !answered && i < 2; i++) {
        if (!s->zygote)
            e = start_zygote(s);
        if (!e)
            answered = ask(s, &q, fd, file >= 0 ? 3 : 2, &reply);
    }
    pthread_mutex_unlock(&s->lock);
    if (e)
        return e;
    if (reply.error)
        return err_set(reply.error == EAGAIN || reply.error == ENOMEM ? ERR_BUSY : ERR_IO,
                       "no process for a decoder: %s", strerror(reply.error));
    *pid = reply.pid;
    return ERR_OK;
}

int host_bury(struct sandbox *s, pid_t pid)
{
    const struct zygote_request q = {.what = ZYGOTE_BURY, .pid = pid};
    struct zygote_reply reply;
    pthread_mutex_lock(&s->lock);
    bool known = ask(s, &q, NULL, 0, &reply) && !reply.error;
    pthread_mutex_unlock(&s->lock);
    return known ? reply.status : -1;
}

void host_allow(struct sandbox *s, pid_t pid, uint32_t cpu_seconds)
{
    const struct zygote_request q = {
        .what = ZYGOTE_ALLOW, .pid = pid, .order.cpu_seconds = cpu_seconds};
    struct zygote_reply reply;
    pthread_mutex_lock(&s->lock);
    ask(s, &q, NULL, 0, &reply);
    pthread_mutex_unlock(&s->lock);
}

const struct sandbox_options *host_options(const struct sandbox *s)
{
    return &s->o;
}

uint32_t host_cpu_seconds(const struct sandbox *s)
{
    return (uint32_t)s->o.patience + CPU_SLACK_SECONDS;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

enum err sandbox_open(const struct sandbox_options *o, struct sandbox **out)
{
    const struct child_order trial = {.kind = CHILD_IMAGES};
    struct link *l;
    int confined = 0;
    *out = NULL;
    struct sandbox *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "no memory for a sandbox");
    s->o = *o;
    pthread_mutex_init(&s->lock, NULL);
    enum err e = link_open(s, &trial, -1, "trial", &confined, &l);
    if (e) {
        sandbox_close(s);
        return e;
    }
    link_close(l);
    snprintf(s->means, sizeof s->means, "seccomp%s%s",
             confined & CONFINED_LANDLOCK ? " landlock" : "",
             confined & CONFINED_NAMESPACES ? " namespaces" : "");
    *out = s;
    return ERR_OK;
}

void sandbox_close(struct sandbox *s)
{
    if (!s)
        return;
    end_zygote(s, true);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *sandbox_means(const struct sandbox *s)
{
    return s->means;
}
