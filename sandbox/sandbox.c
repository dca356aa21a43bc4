/* The zygote from outside.
 *
 * Every question brings a socket for its own answer, so nobody waits for another's, and the lock is
 * held for no longer than it takes to send one. A zygote that does not answer, or is gone, is ended
 * with all its children (the kernel sees to that), and the next question for a child starts
 * another: so children of the old one are found dead by whoever waits for them.
 *
 * A child is its descriptor: that is what is killed, waited for and reaped. The number may be
 * another process's by then. */
#include "sandbox/sandbox.h"

#include "sandbox/channel.h"
#include "sandbox/confine.h"
#include "sandbox/host.h"
#include "sandbox/link.h"
#include "sandbox/zygote.h"

#include "base/try.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_SECONDS = 20, CPU_SLACK_SECONDS = 60, ENDED_MAX = 64 };

struct sandbox {
    struct sandbox_options o;
    pthread_mutex_t lock; /* guards the next five */
    pid_t zygote;         /* 0: none now */
    int fd;
    unsigned generation;  /* of the zygote */
    int ended[ENDED_MAX]; /* children that it is to reap and could not be told of yet */
    int ended_count;
    char means[48];
};

/* ---- the zygote's life --------------------------------------------------------------------------
 */

/* Of our environment it gets what the loader, the sanitizers and CUDA read. */
static void copy_environment(char *out[], int most)
{
    static const char *const kept[] = {"LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=",
                                       "LSAN_OPTIONS=",    "TSAN_OPTIONS=", "CUDA_"};
    int n = 0;
    for (char **v = environ; *v && n < most; v++)
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            if (strncmp(*v, kept[i], strlen(kept[i])) == 0 && n < most)
                out[n++] = *v;
    out[n] = NULL;
}

static int start_program(int socket, pid_t *pid)
{
    enum { KEPT_MAX = 32 };
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
    int pair[2];
    if (!channel_open(pair))
        return err_set(ERR_IO, "a socket of the decoders: %s", strerror(errno));
    int r = start_program(pair[1], &s->zygote);
    close(pair[1]);
    if (r) {
        close(pair[0]);
        s->zygote = 0;
        return err_set(ERR_IO, "the process of the decoders does not start: %s", strerror(r));
    }
    s->fd = pair[0];
    s->generation++;
    return ERR_OK;
}

/* It has nothing to clean up, and may be one that does not listen. */
static void end_zygote(struct sandbox *s)
{
    if (!s->zygote)
        return;
    close(s->fd);
    kill(s->zygote, SIGKILL);
    while (waitpid(s->zygote, NULL, 0) < 0 && errno == EINTR)
        ;
    s->zygote = 0;
    while (s->ended_count > 0) /* the kernel reaps them */
        close(s->ended[--s->ended_count]);
}

/* With the lock held: tells it of the children that have ended. For what it does not take now there
 * is another time; one that takes nothing is ended. */
static void bury_ended(struct sandbox *s)
{
    const struct zygote_request q = {.what = ZYGOTE_BURY};
    while (s->zygote && s->ended_count > 0) {
        bool sent = channel_send(s->fd, &q, sizeof q, &s->ended[s->ended_count - 1], 1);
        if (sent)
            close(s->ended[--s->ended_count]);
        else if (errno != EAGAIN || s->ended_count == ENDED_MAX)
            end_zygote(s);
        else
            return;
    }
}

/* ---- questions ----------------------------------------------------------------------------------
 */

enum answer { ANSWERED, GONE, CANCELLED };

/* Sends it to the zygote that there is. False: there is none, or it is gone now, or it has too many
 * to answer. */
static bool send_request(struct sandbox *s, const struct zygote_request *q, const int *fd, int fds,
                         unsigned *generation)
{
    pthread_mutex_lock(&s->lock);
    bury_ended(s);
    bool sent = s->zygote && channel_send(s->fd, q, sizeof *q, fd, fds);
    if (s->zygote && !sent && errno != EAGAIN)
        end_zygote(s);
    *generation = s->generation;
    pthread_mutex_unlock(&s->lock);
    return sent;
}

/* At pair[0], from that zygote, which is ended if it takes too long. */
static enum answer await(struct sandbox *s, int from, unsigned generation,
                         const struct sandbox_wait *wait, struct zygote_reply *reply, int *child)
{
    int fd[CHANNEL_FDS];
    ssize_t n;
    for (int slices = ANSWER_SECONDS * 1000 / SANDBOX_LATE_MS; slices > 0; slices--) {
        n = channel_receive(from, reply, sizeof *reply, fd);
        *child = fd[0];
        if (n == sizeof *reply)
            return ANSWERED;
        if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            break;
        if (wait && wait->cancelled && wait->cancelled(wait->ctx)) {
            shutdown(from, SHUT_RD); /* an answer is here by now, or cannot be sent any more */
            channel_receive(from, reply, sizeof *reply, fd);
            *child = fd[0];
            return CANCELLED;
        }
        if (wait && wait->late)
            wait->late(wait->ctx);
    }
    pthread_mutex_lock(&s->lock);
    if (s->generation == generation)
        end_zygote(s);
    pthread_mutex_unlock(&s->lock);
    return GONE;
}

/* fd[at] is where the answer is to come, and is set here; *child: the descriptor that came. */
static enum answer ask(struct sandbox *s, const struct zygote_request *q, int *fd, int fds, int at,
                       const struct sandbox_wait *wait, struct zygote_reply *reply, int *child)
{
    int pair[2];
    unsigned generation;
    if (!channel_open(pair))
        return GONE;
    fd[at] = pair[1];
    bool sent = send_request(s, q, fd, fds, &generation);
    close(pair[1]);
    enum answer a = sent ? await(s, pair[0], generation, wait, reply, child) : GONE;
    close(pair[0]);
    return a;
}

static enum err need_zygote(struct sandbox *s)
{
    pthread_mutex_lock(&s->lock);
    enum err e = s->zygote ? ERR_OK : start_zygote(s);
    pthread_mutex_unlock(&s->lock);
    return e;
}

enum err host_spawn(struct sandbox *s, const struct child_order *order, int socket, int memory,
                    int file, const struct sandbox_wait *wait, struct host_child *out)
{
    const struct zygote_request q = {.what = ZYGOTE_SPAWN, .order = *order};
    int fd[CHANNEL_FDS] = {-1, socket, memory, file}, child = -1;
    struct zygote_reply reply;
    enum answer a = GONE;
    for (int i = 0; a == GONE && i < 2; i++) {
        reply = (struct zygote_reply){.error = EIO};
        TRY(need_zygote(s));
        a = ask(s, &q, fd, file >= 0 ? 4 : 3, 0, wait, &reply, &child);
    }
    if (a == CANCELLED) {
        if (child >= 0)
            host_bury(s, &(struct host_child){reply.pid, child});
        return err_set(ERR_CANCELLED, "cancelled");
    }
    if (a == ANSWERED && !reply.error && child >= 0) {
        *out = (struct host_child){reply.pid, child};
        return ERR_OK;
    }
    if (child >= 0)
        close(child);
    return err_set(reply.error == EAGAIN || reply.error == ENOMEM ? ERR_BUSY : ERR_IO,
                   "no process for a decoder: %s", strerror(reply.error ? reply.error : EMFILE));
}

/* The kernel may take its time over one that is large. */
static void end(const struct host_child *child)
{
    struct pollfd p = {.fd = child->fd, .events = POLLIN};
    pidfd_send_signal(child->fd, SIGKILL, NULL, 0);
    while (poll(&p, 1, ANSWER_SECONDS * 1000) < 0 && errno == EINTR)
        ;
}

void host_bury(struct sandbox *s, const struct host_child *child)
{
    end(child);
    pthread_mutex_lock(&s->lock);
    if (s->zygote)
        s->ended[s->ended_count++] = child->fd;
    else
        close(child->fd);
    bury_ended(s);
    pthread_mutex_unlock(&s->lock);
}

int host_bury_asking(struct sandbox *s, const struct host_child *child)
{
    const struct zygote_request q = {.what = ZYGOTE_BURY};
    int fd[2] = {child->fd, -1}, none = -1;
    struct zygote_reply reply;
    end(child);
    enum answer a = ask(s, &q, fd, 2, 1, NULL, &reply, &none);
    close(child->fd);
    return a == ANSWERED && !reply.error ? reply.signal : -1;
}

void host_allow(struct sandbox *s, const struct host_child *child, uint32_t cpu_seconds)
{
    const struct zygote_request q = {
        .what = ZYGOTE_ALLOW, .pid = child->pid, .order.cpu_seconds = cpu_seconds};
    unsigned generation;
    send_request(s, &q, &child->fd, 1, &generation);
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
    enum err e = link_open(s, &trial, -1, "trial", NULL, &confined, &l);
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
    end_zygote(s);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *sandbox_means(const struct sandbox *s)
{
    return s->means;
}
