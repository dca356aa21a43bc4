#include "sandbox/link.h"

#include "sandbox/channel.h"
#include "sandbox/host.h"

#include "base/try.h"
#include "media/decode.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const int64_t ns_per_second = 1000000000, allow_every = INT64_C(5) * 1000000000;

/* Of a child's memory beside the shared one: what FFmpeg itself needs, and some twenty pictures of
 * six bytes a pixel, which is what H.264 and HEVC keep at most. */
static const uint64_t memory_base = 256u << 20;
enum { MEMORY_OF_A_PIXEL = 128 };

enum { ALIGN_SLACK = 64 * 16384 }; /* pixels: a container's limit counts aligned rows (source.c) */

struct link {
    struct sandbox *sandbox; /* NULL: a fuzzer's */
    struct child_order order;
    struct host_child child;
    int fd;
    uint8_t *memory;
    int64_t allowed; /* when it was last given CPU time */
    bool dead;
    enum sandbox_end how; /* it died */
    char who[160], why[128];
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * ns_per_second + t.tv_nsec;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static enum sandbox_end how_it_ended(int number)
{
    if (number == -1 || number == SIGKILL)
        return SANDBOX_KILLED;
    if (number == SIGSYS)
        return SANDBOX_FORBIDDEN;
    if (number == SIGXCPU)
        return SANDBOX_SPENT;
    return SANDBOX_CRASHED;
}

enum err link_gone(const struct link *l)
{
    return err_set(ERR_DECODER, "%s", l->why);
}

/* The child's end was not ours to choose, unless `how` says so; SANDBOX_ENDS: the zygote does. */
static enum err die(struct link *l, enum sandbox_end how)
{
    static const char *const why[SANDBOX_ENDS] = {
        [SANDBOX_CRASHED] = "the decoder crashed",
        [SANDBOX_KILLED] = "the decoder was killed",
        [SANDBOX_FORBIDDEN] = "the decoder tried what it may not",
        [SANDBOX_HUNG] = "the decoder did not answer in time",
        [SANDBOX_SPENT] = "the decoder used up its CPU time",
        [SANDBOX_LIED] = "the decoder gave an answer that makes no sense",
    };
    if (l->dead)
        return link_gone(l);
    l->dead = true;
    int number = -1;
    if (l->sandbox && how == SANDBOX_ENDS)
        number = host_bury_asking(l->sandbox, &l->child);
    else if (l->sandbox)
        host_bury(l->sandbox, &l->child);
    if (how == SANDBOX_ENDS)
        how = how_it_ended(number);
    l->how = how;
    if (number > 0 && how == SANDBOX_CRASHED)
        snprintf(l->why, sizeof l->why, "%s (%s)", why[how], strsignal(number));
    else
        snprintf(l->why, sizeof l->why, "%s", why[how]);
    const struct sandbox_options *o = l->sandbox ? host_options(l->sandbox) : NULL;
    if (o && o->died)
        o->died(o->ctx, how, l->who, l->why);
    return link_gone(l);
}

enum err link_lied(struct link *l)
{
    return die(l, SANDBOX_LIED);
}

void link_close(struct link *l)
{
    if (!l)
        return;
    const struct sandbox_options *o = l->sandbox ? host_options(l->sandbox) : NULL;
    close(l->fd);
    if (!l->dead && l->child.pid)
        host_bury(l->sandbox, &l->child);
    if (l->memory)
        munmap(l->memory, (size_t)wire_memory(&l->order));
    if (o && o->ended && l->child.pid)
        o->ended(o->ctx);
    free(l);
}

/* ---- the beginning ------------------------------------------------------------------------------
 */

static uint64_t whole_pages(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static void complete(struct child_order *o, const struct sandbox *s)
{
    const struct sandbox_options *of = host_options(s);
    uint64_t slack = o->kind == CHILD_VIDEO ? ALIGN_SLACK : 0;
    o->max_pixels = of->max_pixels;
    o->slot_bytes = whole_pages(3 * ((uint64_t)of->max_pixels + slack) + WIRE_SLACK);
    if (o->slots == 0)
        o->slots = 1;
    if (o->kind != CHILD_VIDEO) /* with room for padding */
        o->input_bytes = whole_pages(of->max_input + WIRE_SLACK);
    o->memory = memory_base + MEMORY_OF_A_PIXEL * (uint64_t)of->max_pixels;
    o->cpu_seconds = host_cpu_seconds(s);
}

/* Sealed, so that a child cannot make it smaller under our hands. */
static enum err make_memory(struct link *l, int *fd)
{
    size_t size = (size_t)wire_memory(&l->order);
    *fd = memfd_create("tv3sd-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0 || ftruncate(*fd, (off_t)size) != 0 ||
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return err_set(ERR_NOMEM, "memory to share with a decoder: %s", strerror(errno));
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (at == MAP_FAILED)
        return err_set(ERR_NOMEM, "memory to share with a decoder: %s", strerror(errno));
    l->memory = at;
    return ERR_OK;
}

static enum err make_child(struct link *l, int file, const struct sandbox_wait *wait)
{
    int pair[2], memory = -1;
    if (!channel_open(pair))
        return err_set(ERR_BUSY, "a socket of a decoder: %s", strerror(errno));
    l->fd = pair[0];
    enum err e = make_memory(l, &memory);
    if (!e)
        e = host_spawn(l->sandbox, &l->order, pair[1], memory, file, wait, &l->child);
    close(pair[1]);
    if (memory >= 0)
        close(memory);
    return e;
}

/* Its first word: that it is confined. */
static enum err first_word(struct link *l, const struct sandbox_wait *wait, int *confined)
{
    struct wire_reply r;
    int64_t left = link_patience(l);
    TRY(link_receive(l, wait, &left, &r));
    if (r.what == TELL_FAILED)
        return err_set(r.error, "%s: %s",
                       l->order.device ? "the device's decoder does not begin"
                                       : "a decoder cannot be confined",
                       r.text);
    if (r.what != TELL_READY)
        return link_lied(l);
    if (confined)
        *confined = (int)r.value;
    return ERR_OK;
}

/* *died: of itself, before its first word. */
static enum err open_one(struct sandbox *s, const struct child_order *order, int file,
                         const char *who, const struct sandbox_wait *wait, int *confined,
                         struct link **out, bool *died)
{
    *out = NULL;
    *died = false;
    struct link *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    l->sandbox = s;
    l->fd = -1;
    l->order = *order;
    complete(&l->order, s);
    snprintf(l->who, sizeof l->who, "%s", who);
    enum err e = make_child(l, file, wait);
    l->allowed = now_ns();
    if (!e && host_options(s)->started)
        host_options(s)->started(host_options(s)->ctx);
    if (!e)
        e = first_word(l, wait, confined);
    *died = e == ERR_DECODER && l->how != SANDBOX_HUNG;
    if (e)
        link_close(l);
    else
        *out = l;
    return e;
}

/* Until then a child has seen nothing of its input: the zygote may have died with it, or the kernel
 * have wanted its memory. Another is tried; not on a device, in place of which there is the CPU. */
enum err link_open(struct sandbox *s, const struct child_order *order, int file, const char *who,
                   const struct sandbox_wait *wait, int *confined, struct link **out)
{
    bool died;
    enum err e = open_one(s, order, file, who, wait, confined, out, &died);
    return died && !order->device ? open_one(s, order, file, who, wait, confined, out, &died) : e;
}

void *link_holder(struct link *l, size_t size)
{
    void *holder = calloc(1, size);
    if (holder)
        return holder;
    link_close(l);
    err_set(ERR_NOMEM, "no memory for a decoder");
    return NULL;
}

enum err link_to(const struct child_order *order, int fd, struct link **out)
{
    int memory = -1;
    struct link *l = calloc(1, sizeof *l);
    *out = l;
    if (!l)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    l->order = *order;
    l->fd = fd;
    channel_slice(fd);
    enum err e = make_memory(l, &memory);
    if (memory >= 0)
        close(memory);
    return e;
}

/* ---- words --------------------------------------------------------------------------------------
 */

/* CPU time for what comes: a child that nobody asks for anything has little to burn. */
static void allow_time(struct link *l)
{
    int64_t now = now_ns();
    if (!l->sandbox || now - l->allowed < allow_every)
        return;
    l->allowed = now;
    host_allow(l->sandbox, &l->child, host_cpu_seconds(l->sandbox));
}

enum err link_send(struct link *l, const struct wire_request *q)
{
    ssize_t n;
    if (l->dead)
        return link_gone(l);
    allow_time(l);
    while ((n = send(l->fd, q, sizeof *q, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return n == sizeof *q ? ERR_OK : die(l, SANDBOX_ENDS);
}

enum err link_send_fd(struct link *l, const struct wire_request *q, int fd)
{
    if (l->dead)
        return link_gone(l);
    return channel_send(l->fd, q, sizeof *q, &fd, fd >= 0) ? ERR_OK : die(l, SANDBOX_ENDS);
}

int64_t link_patience(const struct link *l)
{
    return l->sandbox ? (int64_t)(host_options(l->sandbox)->patience * 1e9) : ns_per_second;
}

/* Its answer would come when nobody expects it any more. */
static enum err give_up(struct link *l)
{
    l->dead = true;
    if (l->sandbox)
        host_bury(l->sandbox, &l->child);
    snprintf(l->why, sizeof l->why, "cancelled");
    return err_set(ERR_CANCELLED, "cancelled");
}

/* Also between words: a child that always has another to say is no nearer to its answer. */
static enum err check_patience(struct link *l, const struct sandbox_wait *wait, int64_t left)
{
    if (left <= 0)
        return die(l, SANDBOX_HUNG);
    return wait && wait->cancelled && wait->cancelled(wait->ctx) ? give_up(l) : ERR_OK;
}

enum err link_receive(struct link *l, const struct sandbox_wait *wait, int64_t *left,
                      struct wire_reply *out)
{
    char bytes[sizeof *out + 1]; /* whatever is longer is no reply */
    ssize_t n;
    if (l->dead)
        return link_gone(l);
    for (int64_t at = now_ns();;) {
        n = recv(l->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        int64_t now = now_ns();
        *left -= now - at;
        at = now;
        if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            break;
        TRY(check_patience(l, wait, *left));
        if (wait && wait->late)
            wait->late(wait->ctx);
    }
    if (n <= 0)
        return die(l, SANDBOX_ENDS);
    TRY(check_patience(l, wait, *left));
    return wire_check(&l->order, bytes, (size_t)n, out) ? ERR_OK : die(l, SANDBOX_LIED);
}

enum err link_error(const struct link *l, enum err e, const struct wire_reply *r)
{
    if (e != ERR_NOMEM)
        return err_set(e, "%s", r->text);
    return err_set(ERR_LIMIT, "decoding takes more memory than the %llu MB that are allowed",
                   (unsigned long long)(l->order.memory >> 20));
}

/* ---- memory -------------------------------------------------------------------------------------
 */

bool link_dead(const struct link *l)
{
    return l->dead;
}

const struct child_order *link_order(const struct link *l)
{
    return &l->order;
}

uint8_t *link_input(const struct link *l)
{
    return l->memory;
}

void link_set_device_slots(struct link *l, uint64_t slot_bytes)
{
    l->order.device_slot_bytes = slot_bytes;
}

enum err link_take(struct link *l, int slot, const struct wire_reply *r, struct frame *f)
{
    enum pixel_layout layout = (enum pixel_layout)r->layout;
    size_t need = pixels_bytes(layout, r->width, r->height);
    size_t room = need + WIRE_SLACK;
    if (layout == PIXELS_NV12 && !f->takes_nv12)
        return link_lied(l);
    if (f->capacity < room) {
        free(f->pixels);
        f->capacity = 0;
        f->pixels = malloc(room);
        if (!f->pixels)
            return err_set(ERR_NOMEM, "no memory for a picture of %zu bytes", room);
        f->capacity = room;
    }
    memcpy(f->pixels, l->memory + wire_slot(&l->order, slot), need);
    f->format = (struct pixel_format){layout, (enum yuv_matrix)r->matrix, r->full};
    f->width = r->width;
    f->height = r->height;
    return ERR_OK;
}
