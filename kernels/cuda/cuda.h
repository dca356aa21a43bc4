/* The CUDA backend's inside: shared by the C files of kernels/cuda.
 *
 *   backend.c   the operations: each leaves its arguments in the trace, and launches
 *   batch.c     a batch: what is walked when, the copies, the one wait
 *   graph.c     batches that were seen before, as one launch
 *   stage.c     pinned memory: pixels and tables up, labels down; pixels that are on a device
 *   memory.c    device memory: buffers, tables; states come from a pool (pool.c)
 *   linear.c    matrix products
 *   device_memory.c   nothing of the backend's: memory that decoders on the device write
 *
 * One thread, the engine thread. All arithmetic is on one stream, in the order of the batches, so
 * that they share scratch; copies have a stream each, up and down, tied to it by events. Nothing
 * waits for the device but `finish`, `upload`, `download` and what allocates.
 *
 * Errors: memory that is not there is ERR_NOMEM and leaves everything usable. Any other error of
 * the runtime is kept, the first one, and ends the backend: every later call that can says
 * ERR_DEVICE (a CUDA context does not recover from a fault of a kernel). */
#ifndef TV3S_KERNELS_CUDA_CUDA_H
#define TV3S_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/pool.h"

#include <cublasLt.h>

enum {
    CUDA_STAGE_BLOCKS = 16,
    CUDA_LT_WORKSPACE = 32 << 20,
    CUDA_DEPTH = 2,   /* batches under way */
    CUDA_GRAPHS = 64, /* batches that are known: shapes, times sets of staging memory */
};

/* A device copy of a table that the host has too. */
struct cuda_table {
    const void *host; /* NULL: a free place */
    void *device;
};

/* Memory that both sides have: pinned on the host, and as much on the device; or that the device
 * has alone. It is handed out front to back, and is all free again with the next batch. When it is
 * too small it gets another block, and becomes one block before the batch is walked again. */
struct cuda_stage {
    bool device_alone; /* host[] is NULL */
    char *host[CUDA_STAGE_BLOCKS], *device[CUDA_STAGE_BLOCKS];
    size_t size[CUDA_STAGE_BLOCKS], used; /* used: of the last block */
    int blocks;
};

/* A picture that is on a device, number `device`, and where in the batch's memory it goes. */
struct cuda_picture {
    const void *from;
    void *to;
    size_t bytes;
    int device;
};

/* Labels on their way to the caller's memory; they are in pinned memory when the batch is done. */
struct cuda_answer {
    const void *from;
    void *to;
    size_t bytes;
};

/* A batch under way, and the memory for one. */
struct cuda_flight {
    struct cuda_stage in, out, decoded; /* decoded: the pictures' */
    struct cuda_picture *pictures;
    size_t picture_count, picture_places;
    struct cuda_answer *answers;
    size_t answer_count, answer_places;
    cudaEvent_t done;
};

/* How operations are called. */
enum cuda_walk {
    CUDA_AT_ONCE, /* not in a batch: they launch */
    CUDA_DRY,     /* they fill the staging memory, and leave their arguments in the trace */
    CUDA_LIVE,    /* they launch, or are captured; the staging memory is filled */
};

/* What stands for all operations of a batch with all their arguments. */
struct cuda_trace {
    uint64_t key[2];
    bool waits; /* some operation waits for the device: there can be no graph */
};

struct cuda_graph {
    uint64_t key[2];
    cudaGraphExec_t exec; /* NULL: seen once */
    uint64_t used;        /* the clock at its last use; 0: a free place */
};

struct cuda_backend {
    struct backend base; /* first: a struct backend * is a struct cuda_backend * */
    struct backend_ops table;
    char name[320];
    int device;
    bool tf32;

    cudaStream_t stream, up, down;
    cudaEvent_t uploaded, computed;
    cudaError_t failed; /* the first error, for good */
    const char *failed_at;

    cublasLtHandle_t lt;
    cublasLtMatmulPreference_t preference;
    void *workspace;

    struct cuda_table *tables; /* open addressing, a power of two */
    size_t table_places, table_count;

    struct cuda_pool states, spilled; /* device memory, pinned memory */
    uint64_t allocations;             /* so far, of the runtime */

    struct cuda_flight flight[CUDA_DEPTH];
    int oldest, flying;          /* flight[oldest] and the one behind it */
    struct cuda_flight *current; /* that is being walked */
    enum cuda_walk walk;
    struct cuda_trace trace;
    struct cuda_graph graph[CUDA_GRAPHS];
    uint64_t clock;
    bool no_graphs; /* a capture failed, or a test wants it so */
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

/* Whether an operation is to be launched; if not, its name (a literal) and arguments are in the
 * trace. Everything that a launch is given must be among them. */
bool cuda_op(struct cuda_backend *c, const char *name, const uint64_t *args, size_t count);
#define OP(c, name, ...)                                                                           \
    cuda_op(c, name, (const uint64_t[]){__VA_ARGS__},                                              \
            sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))
#define AT(p) ((uint64_t)(uintptr_t)(p)) /* a pointer as an argument of OP; an axis: */
#define AXIS(a)                                                                                    \
    AT((a).index), AT((a).weight), (unsigned)(a).dst, (unsigned)(a).src, (unsigned)(a).taps

/* memory.c */
enum err cuda_alloc(struct backend *be, size_t bytes, void **out);
void cuda_free(struct backend *be, void *p);
enum err cuda_reserve(struct backend *be, size_t bytes);
enum err cuda_take(struct backend *be, size_t bytes, void **out);
void cuda_give(struct backend *be, void *p, size_t bytes);
enum err cuda_host_take(struct backend *be, size_t bytes, void **out);
void cuda_host_give(struct backend *be, void *p, size_t bytes);
void cuda_pools_open(struct cuda_backend *c);
enum err cuda_pinned(struct cuda_backend *c, size_t bytes, void **out);
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
void cuda_stages_open(struct cuda_flight *f);
/* All of it is free. */
void cuda_stages_rewind(struct cuda_flight *f);
/* One block each of what were several; nothing of it is in use. */
enum err cuda_stages_settle(struct cuda_backend *c, struct cuda_flight *f);
void cuda_stages_close(struct cuda_flight *f);
enum err cuda_stage_op(struct backend *be, size_t bytes, void **host);
enum err cuda_staged_op(struct backend *be, const void *host, size_t bytes, const void **out);
enum err cuda_preprocess_op(struct backend *be, const uint8_t *pixels, ptrdiff_t stride,
                            bool on_device, struct pixel_format format,
                            const struct resize_axis *rows, const struct resize_axis *cols,
                            float *out);
enum err cuda_labels_op(struct backend *be, const float *logits, int classes,
                        const struct resize_axis *rows, const struct resize_axis *cols,
                        uint8_t *out);

/* batch.c */
enum err cuda_start(struct backend *be, enum err (*walk)(void *arg), void *arg);
enum err cuda_finish(struct backend *be);

/* graph.c */
/* The captured batch of this trace; NULL: not there. */
cudaGraphExec_t cuda_graph_find(struct cuda_backend *c);
/* Whether the trace was seen before, and that it was: all its kernels were launched. */
bool cuda_graph_seen(struct cuda_backend *c);
void cuda_graph_note(struct cuda_backend *c);
/* Captures the walk and keeps it. NULL: it cannot be captured; then graphs are given up. */
cudaGraphExec_t cuda_graph_capture(struct cuda_backend *c, enum err (*walk)(void *arg), void *arg);
void cuda_graphs_close(struct cuda_backend *c);

/* linear.c */
enum err cuda_linear_open(struct backend *be, const struct linear_desc *d, struct linear **out);
void cuda_linear_close(struct backend *be, struct linear *l);
enum err cuda_linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows);
enum err cuda_peak(struct backend *be, double *gflops);

#endif
