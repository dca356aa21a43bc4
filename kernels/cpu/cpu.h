/* The CPU backend's inside: shared by the files that implement its operations. */
#ifndef TV3S_KERNELS_CPU_CPU_H
#define TV3S_KERNELS_CPU_CPU_H

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"

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

/* The backend's scratch, at least `bytes`, 64-byte aligned; contents lost at the next call. */
enum err cpu_scratch(struct cpu_backend *c, size_t bytes, void **out);

/* cores.c */
void cpu_own_cores(struct backend *be);

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
