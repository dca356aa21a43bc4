#include "sandbox/child.h"

#include "sandbox/channel.h"
#include "sandbox/confine.h"
#include "sandbox/zygote.h"

#include "base/try.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOCKET = ZYGOTE_SOCKET, MEMORY, INPUT, FDS_END }; /* its descriptors behind 0, 1, 2 */

/* ---- words --------------------------------------------------------------------------------------
 */

void child_tell(const struct wire_reply *reply)
{
    ssize_t n;
    while ((n = send(SOCKET, reply, sizeof *reply, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    if (n != sizeof *reply)
        _exit(0);
}

void child_hear(struct wire_request *request)
{
    ssize_t n;
    while ((n = recv(SOCKET, request, sizeof *request, 0)) < 0 && errno == EINTR)
        ;
    if (n != sizeof *request)
        _exit(0);
}

void child_hear_fd(struct wire_request *request, int *fd)
{
    int all[CHANNEL_FDS];
    if (channel_receive(SOCKET, request, sizeof *request, all) != sizeof *request)
        _exit(0);
    *fd = all[0];
}

void child_set_text(struct wire_reply *reply, const char *text)
{
    snprintf(reply->text, sizeof reply->text, "%s", text);
}

void child_tell_error(enum err e)
{
    struct wire_reply reply = {.what = TELL_FAILED, .error = e};
    child_set_text(&reply, err_text());
    child_tell(&reply);
}

struct frame child_slot(const struct child *c, int slot)
{
    return (struct frame){.pixels = c->memory + wire_slot(c->order, slot),
                          .capacity = c->order->slot_bytes,
                          .lent = true,
                          .takes_nv12 = c->order->nv12};
}

void child_set_picture(struct wire_reply *reply, const struct frame *f)
{
    reply->width = f->width;
    reply->height = f->height;
    reply->layout = (int32_t)f->format.layout;
    reply->matrix = (int32_t)f->format.matrix;
    reply->full = f->format.full;
}

/* ---- birth --------------------------------------------------------------------------------------
 */

static enum err place(int from, int to)
{
    if (from >= 0 && dup3(from, to, O_CLOEXEC) != to)
        return err_set(ERR_INTERNAL, "descriptors of a decoding process: %s", strerror(errno));
    return ERR_OK;
}

/* Nothing stays open but what it works with. stderr would reach the daemon's log, so it stays only
 * where a sanitizer has something to say. */
static enum err keep_files(const int fd[CHILD_FDS])
{
    int high[CHILD_FDS];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < CHILD_FDS; i++) /* out of the way first */
        high[i] = fd[i] >= 0 ? fcntl(fd[i], F_DUPFD_CLOEXEC, FDS_END + CHILD_FDS) : -1;
    if (high[0] < 0 || place(high[0], SOCKET) != ERR_OK)
        _exit(1); /* what is there is the zygote's */
    TRY(place(high[1], MEMORY));
    TRY(place(high[2], INPUT));
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
    TRY(place(null, STDERR_FILENO));
#endif
    TRY(place(null, STDIN_FILENO));
    TRY(place(null, STDOUT_FILENO));
    if (close_range(high[2] >= 0 ? FDS_END : INPUT, ~0u, 0) != 0)
        return err_set(ERR_UNSUPPORTED, "close_range: %s", strerror(errno));
    return ERR_OK;
}

/* The kernel takes a decoder's memory before the daemon's. */
static void volunteer(void)
{
    FILE *f = fopen("/proc/self/oom_score_adj", "we");
    if (!f)
        return;
    fputs("500", f);
    fclose(f);
}

static void set_name(enum child_kind kind)
{
    static const char *const name[] = {[CHILD_VIDEO] = "tv3sd-video",
                                       [CHILD_IMAGES] = "tv3sd-images",
                                       [CHILD_PACKETS] = "tv3sd-packets"};
    prctl(PR_SET_NAME, name[kind], 0, 0, 0);
}

static enum err start(struct child *c, const struct child_birth *birth, const int fd[CHILD_FDS],
                      int *confined)
{
    const struct child_order *o = c->order;
    size_t shared = (size_t)wire_memory(o);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != birth->zygote)
        _exit(0);
    set_name(o->kind);
    volunteer();
    TRY(keep_files(fd));
    c->file = INPUT;
    c->memory = mmap(NULL, shared, PROT_READ | PROT_WRITE, MAP_SHARED, MEMORY, 0);
    if (c->memory == MAP_FAILED)
        return err_set(ERR_NOMEM, "shared memory of %zu bytes: %s", shared, strerror(errno));
    close(MEMORY);
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + o->nicer);
    if (o->device)
        return child_device_start(o, o->memory, confined);
    return confine(birth->address_space + shared + o->memory, o->cpu_seconds, confined);
}

_Noreturn void child_main(const struct child_order *order, const struct child_birth *birth,
                          const int fd[CHILD_FDS])
{
    struct child c = {.order = order};
    int confined = birth->confined;
    enum err e = start(&c, birth, fd, &confined);
    if (e) {
        child_tell_error(e);
        _exit(1);
    }
    struct wire_reply ready = {.what = TELL_READY, .value = confined};
    child_tell(&ready);
    switch (order->kind) {
    case CHILD_VIDEO:
        child_video(&c);
    case CHILD_IMAGES:
        child_images(&c);
    case CHILD_PACKETS:
        child_packets(&c);
    }
    _exit(1);
}
