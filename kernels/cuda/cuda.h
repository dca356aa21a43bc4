/* The CUDA backend's inside: shared by the C files of kernels/cuda.
 *
 * One thread, the engine thread. All work of the device is on one stream, but pixels going up and
 * labels coming down: they have a stream each, tied to the first by events, so that the copies run
 * under the arithmetic. Nothing waits for the device but `sync`, `download` and what allocates.
 *
 * Errors: memory that is not there is ERR_NOMEM and leaves everything usable. Any other error of
 * the runtime is kept, the first one, and ends the backend: every later call that can says
 * ERR_DEVICE (a CUDA context does not recover from a fault of a kernel). */
#ifndef TV3S_KERNELS_CUDA_CUDA_H
#define TV3S_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/kernels.h"

#include <cublasLt.h>

enum { CUDA_STAGE_BLOCKS = 16, CUDA_LT_WORKSPACE = 32 << 20 };

/* A device copy of a table that the host has too. */
struct cuda_table {
    const void *host; /* NULL: a free place */
    void *device;
};

/* Memory that both sides have: pinned on the host, and as much on the device. It is handed out
 * front to back, and is all free again after `sync`. When it is too small it gets another block,
 * and becomes one block at the next `sync`. */
struct cuda_stage {
    char *host[CUDA_STAGE_BLOCKS], *device[CUDA_STAGE_BLOCKS];
    size_t size[CUDA_STAGE_BLOCKS], used; /* used: of the last block */
    int blocks;
};

/* Labels on their way to the caller's memory; they are in pinned memory after the stream. */
struct cuda_answer {
    const void *from;
    void *to;
    size_t bytes;
};

struct cuda_backend {
    struct backend base; /* first: a struct backend * is a struct cuda_backend * */
    struct backend_ops table;
    char name[320];
    int device;

    cudaStream_t stream, up, down;
    cudaEvent_t uploaded, labelled;
    cudaError_t failed; /* the first error, for good */
    const char *failed_at;

    cublasLtHandle_t lt;
    cublasLtMatmulPreference_t preference;
    void *workspace;

    struct cuda_table *tables; /* open addressing, a power of two */
    size_t table_places, table_count;

    struct cuda_stage in, out;
    struct cuda_answer *answers;
    size_t answer_count, answer_places;
};

static inline struct cuda_backend *cuda_of(struct backend *be)
{
    return (struct cuda_backend *)be;
}

static inline bool cuda_is_bf16(const struct backend *be)
{
    return be->dtype == DT_BF16;
}

/* Keeps the first error; `what` is a literal. True when all is well. */
bool cuda_check(struct cuda_backend *c, cudaError_t e, const char *what);
/* ERR_OK, or ERR_DEVICE with what failed. */
enum err cuda_result(struct cuda_backend *c);

/* memory.c */
enum err cuda_alloc(struct backend *be, size_t bytes, void **out);
void cuda_free(struct backend *be, void *p);
enum err cuda_upload(struct backend *be, void *dst, const void *src, size_t bytes);
enum err cuda_download(struct backend *be, void *dst, const void *src, size_t bytes);
void cuda_copy(struct backend *be, void *dst, const void *src, size_t bytes);
void cuda_zero(struct backend *be, void *dst, size_t bytes);
/* Device memory with a copy of host memory; waits. */
enum err cuda_upload_bytes(struct cuda_backend *c, const void *src, size_t bytes, void **out);
enum err cuda_table_add(struct backend *be, const void *host, size_t bytes);
void cuda_table_drop(struct backend *be, const void *host);
/* The device copy; NULL, and the backend has failed, for a table that was not added. */
const void *cuda_table(struct cuda_backend *c, const void *host);
/* The axis with its tables on the device. */
cuda_axis cuda_axis_of(struct cuda_backend *c, const struct resize_axis *a);
void cuda_tables_close(struct cuda_backend *c);

/* stage.c */
/* `bytes` of both memories. ERR_NOMEM. */
enum err cuda_stage_get(struct cuda_backend *c, struct cuda_stage *s, size_t bytes, void **host,
                        void **device);
void cuda_stage_close(struct cuda_stage *s);
enum err cuda_stage_op(struct backend *be, size_t bytes, void **host);
enum err cuda_staged_op(struct backend *be, const void *host, size_t bytes, const void **out);
enum err cuda_preprocess_op(struct backend *be, const uint8_t *rgb, ptrdiff_t stride,
                            const struct resize_axis *rows, const struct resize_axis *cols,
                            float *out);
enum err cuda_labels_op(struct backend *be, const float *logits, int classes,
                        const struct resize_axis *rows, const struct resize_axis *cols,
                        uint8_t *out);
enum err cuda_sync(struct backend *be);

/* linear.c */
enum err cuda_linear_open(struct backend *be, const struct linear_desc *d, struct linear **out);
void cuda_linear_close(struct backend *be, struct linear *l);
enum err cuda_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows);
enum err cuda_peak(struct backend *be, double *gflops);

#endif
