/* The CPU backend's inside: shared by the files that implement its operations.
 *
 * What each operation does, and whose thread calls it, stands in kernels/backend.h. Errors here:
 * ERR_NOMEM of whatever takes memory; of linear and attention also what oneDNN says,
 * ERR_UNSUPPORTED where it has nothing for the CPU and type, when they are opened, and
 * ERR_INTERNAL. */
#ifndef TV3S_KERNELS_CPU_CPU_H
#define TV3S_KERNELS_CPU_CPU_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"

enum { CPU_SPARES = 64, CPU_SPARE_BYTES = 256 << 20 };

/* A buffer that was given back, kept for the next to take as many bytes. */
struct cpu_spare {
    void *data;
    size_t bytes;
};

struct cpu_backend {
    struct backend base; /* first: a struct backend * is a struct cpu_backend * */
    struct backend_ops table;
    const struct cpu_ops *ops;
    struct gemm_context gemm;
    char name[64];

    /* Scratch of the whole backend, grown while handles are made and on a plan's first frame. */
    void *scratch;
    size_t scratch_bytes;

    void *stage; /* cpu_stage's memory */
    size_t stage_bytes;

    struct cpu_spare spare[CPU_SPARES]; /* the one that was given first is first */
    int spares;
    size_t spare_bytes;
};

static inline struct cpu_backend *cpu_of(struct backend *be)
{
    return (struct cpu_backend *)be;
}

static inline bool cpu_is_bf16(const struct backend *be)
{
    return be->dtype == DT_BF16;
}

static inline dnnl_data_type_t cpu_act_type(const struct backend *be)
{
    return cpu_is_bf16(be) ? dnnl_bf16 : dnnl_f32;
}

/* The backend's scratch, at least `bytes`, 64-byte aligned; contents lost at the next call.
 * ERR_NOMEM
 */
enum err cpu_scratch(struct cpu_backend *c, size_t bytes, void **out);

/* cores.c */
void cpu_own_cores(struct backend *be);

/* memory.c */
enum err cpu_alloc(struct backend *be, size_t bytes, void **out);
void cpu_free(struct backend *be, void *p);
enum err cpu_upload(struct backend *be, void *dst, const void *src, size_t bytes);
enum err cpu_reserve(struct backend *be, size_t bytes);
enum err cpu_take(struct backend *be, size_t bytes, void **out);
void cpu_give(struct backend *be, void *p, size_t bytes);
void cpu_spares_close(struct cpu_backend *c);
enum err cpu_host_take(struct backend *be, size_t bytes, void **out);
void cpu_host_give(struct backend *be, void *p, size_t bytes);
enum err cpu_download(struct backend *be, void *dst, const void *src, size_t bytes);
enum err cpu_table_add(struct backend *be, const void *host, size_t bytes);
void cpu_table_drop(struct backend *be, const void *host);
enum err cpu_stage(struct backend *be, size_t bytes, void **host);
enum err cpu_staged(struct backend *be, const void *host, size_t bytes, const void **out);
enum err cpu_start(struct backend *be, enum err (*walk)(void *arg), void *arg);
enum err cpu_finish(struct backend *be);
void cpu_move_states(struct backend *be, const struct state_move *moves, int count, size_t most);
void cpu_copy(struct backend *be, void *dst, const void *src, size_t bytes);
void cpu_zero(struct backend *be, void *dst, size_t bytes);

/* linear.c */
enum err cpu_linear_open(struct backend *be, const struct linear_desc *d, struct linear **out);
void cpu_linear_close(struct backend *be, struct linear *l);
enum err cpu_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows);

/* attention.c */
enum err cpu_attention_open(struct backend *be, const struct attention_desc *d,
                            struct attention **out);
void cpu_attention_close(struct backend *be, struct attention *a);
enum err cpu_attention(struct backend *be, struct attention *a, const void *q, const void *kv,
                       void *out, int images);

/* window_attention.c */
enum err cpu_window_attention(struct backend *be, const struct window_attention *a, const void *qkv,
                              void *out, int images);

#endif
