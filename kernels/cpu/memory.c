/* The CPU backend's memory, which is the host's, and what goes with it: a batch is its walk. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* Large buffers ask for huge pages: activations of tens of megabytes are streamed through by every
 * operation, and a 4 KiB page is one row of in_proj's output. */
enum err cpu_alloc(struct backend *be, size_t bytes, void **out)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    (void)be;
    bytes = (bytes + !bytes + align - 1) / align * align;
    *out = aligned_alloc(align, bytes);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory for %zu bytes", bytes);
#ifdef MADV_HUGEPAGE
    if (align == HUGE_PAGE)
        madvise(*out, bytes, MADV_HUGEPAGE); /* a hint: may fail */
#endif
    return ERR_OK;
}

void cpu_free(struct backend *be, void *p)
{
    (void)be;
    free(p);
}

enum err cpu_reserve(struct backend *be, size_t bytes)
{
    (void)be;
    (void)bytes;
    return ERR_OK;
}

static void *spare_out(struct cpu_backend *c, int i)
{
    void *data = c->spare[i].data;
    c->spare_bytes -= c->spare[i].bytes;
    c->spares--;
    memmove(&c->spare[i], &c->spare[i + 1], (size_t)(c->spares - i) * sizeof *c->spare);
    return data;
}

/* States are memory as any other; what was given back last is what the next batch takes, so that
 * its pages are there. */
enum err cpu_take(struct backend *be, size_t bytes, void **out)
{
    struct cpu_backend *c = cpu_of(be);
    for (int i = c->spares - 1; i >= 0; i--) {
        if (c->spare[i].bytes != bytes)
            continue;
        *out = spare_out(c, i);
        return ERR_OK;
    }
    return cpu_alloc(be, bytes, out);
}

void cpu_give(struct backend *be, void *p, size_t bytes)
{
    struct cpu_backend *c = cpu_of(be);
    if (!p)
        return;
    if (c->spares == CPU_SPARES)
        free(spare_out(c, 0));
    c->spare[c->spares++] = (struct cpu_spare){p, bytes};
    c->spare_bytes += bytes;
    while (c->spare_bytes > CPU_SPARE_BYTES)
        free(spare_out(c, 0));
}

void cpu_spares_close(struct cpu_backend *c)
{
    while (c->spares > 0)
        free(spare_out(c, 0));
}

enum err cpu_host_take(struct backend *be, size_t bytes, void **out)
{
    (void)be;
    *out = malloc(bytes);
    return *out ? ERR_OK : err_set(ERR_NOMEM, "out of memory for %zu bytes", bytes);
}

void cpu_host_give(struct backend *be, void *p, size_t bytes)
{
    (void)be;
    (void)bytes;
    free(p);
}

/* It is all the host's memory. */
enum err cpu_upload(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
    return ERR_OK;
}

enum err cpu_download(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
    return ERR_OK;
}

/* The host's memory is the device's. */
enum err cpu_table_add(struct backend *be, const void *host, size_t bytes)
{
    (void)be;
    (void)host;
    (void)bytes;
    return ERR_OK;
}

void cpu_table_drop(struct backend *be, const void *host)
{
    (void)be;
    (void)host;
}

enum err cpu_stage(struct backend *be, size_t bytes, void **host)
{
    struct cpu_backend *c = cpu_of(be);
    if (bytes > c->stage_bytes) {
        void *p = malloc(bytes);
        if (!p)
            return err_set(ERR_NOMEM, "out of memory for %zu bytes of tables", bytes);
        free(c->stage);
        c->stage = p;
        c->stage_bytes = bytes;
    }
    *host = c->stage;
    return ERR_OK;
}

enum err cpu_staged(struct backend *be, const void *host, size_t bytes, const void **out)
{
    (void)be;
    (void)bytes;
    *out = host;
    return ERR_OK;
}

enum err cpu_start(struct backend *be, enum err (*walk)(void *arg), void *arg)
{
    (void)be;
    return walk(arg);
}

enum err cpu_finish(struct backend *be)
{
    (void)be;
    return ERR_OK;
}

void cpu_move_states(struct backend *be, const struct state_move *moves, int count, size_t most)
{
    (void)be;
    (void)most;
    for (int i = 0; i < count; i++) {
        if (moves[i].src)
            memcpy(moves[i].dst, moves[i].src, moves[i].bytes);
        else
            memset(moves[i].dst, 0, moves[i].bytes);
    }
}

void cpu_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
}

void cpu_zero(struct backend *be, void *dst, size_t bytes)
{
    (void)be;
    memset(dst, 0, bytes);
}
