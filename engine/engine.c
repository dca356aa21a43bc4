#include "engine/internal.h"

#include "base/try.h"

#include <stdlib.h>
#include <string.h>

static enum err open_backend(const struct engine_config *c, struct backend **out)
{
    if (c->device == DEVICE_CUDA)
        return cuda_backend_open(c->device_index, c->dtype, c->tf32, out);
    if (c->tf32)
        return err_set(ERR_UNSUPPORTED, "tf32 is a GPU's: a CPU computes in f32 or bf16");
    return cpu_backend_open(c->dtype, c->threads, c->isa, out);
}

bool engine_dtype_supported(enum device_kind device, enum dtype dtype)
{
    const struct engine_config c = {.device = device, .dtype = dtype};
    struct backend *be = NULL;
    enum err e = open_backend(&c, &be);
    if (e == ERR_OK)
        be->ops->close(be);
    return e == ERR_OK;
}

int engine_cuda_devices(void)
{
    return cuda_backend_devices();
}

static enum err load_weights(struct engine *e)
{
    TRY(encoder_open(&e->loader, &e->encoder));
    return head_open(&e->loader, &e->head);
}

static enum err open_parts(struct engine *e, const struct engine_config *c)
{
    TRY(open_backend(c, &e->be));
    arena_open(&e->arena, e->be);
    e->loader = (struct loader){e->model, e->be};
    enum err r = load_weights(e);
    if (r == ERR_NOMEM)
        return err_context(r, "the model's weights, %zu MB, do not fit%s",
                           model_parameters(e->model) * backend_elem(e->be) >> 20,
                           c->dtype == DT_F32 ? " (in bf16 they take half of that)" : "");
    return r == ERR_OK ? engine_make_room(e, c) : r;
}

enum err engine_open(const struct model *m, const struct engine_config *c, struct engine **out)
{
    *out = NULL;
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(ERR_NOMEM, "out of memory");
    e->model = m;
    enum err r = open_parts(e, c);
    if (r != ERR_OK) {
        engine_close(e);
        return r;
    }
    *out = e;
    return ERR_OK;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    if (e->be) {
        engine_drain(e);
        for (int i = 0; i < e->plans; i++)
            plan_close(e->plan[i], e->be);
        encoder_close(&e->loader, e->encoder);
        head_close(&e->loader, e->head);
        arena_close(&e->arena);
        e->be->ops->close(e->be);
    }
    free(e->plan);
    free(e);
}

bool engine_takes_nv12(const struct engine *e)
{
    return e->be->takes_nv12;
}

const char *engine_description(const struct engine *e)
{
    return e->be->ops->name;
}

void engine_own_cores(struct engine *e)
{
    if (e->be->ops->own_cores)
        e->be->ops->own_cores(e->be);
}

enum err engine_measure_peak(struct engine *e, double *gflops)
{
    engine_enter(e);
    return e->be->ops->peak(e->be, gflops);
}

enum err engine_take(struct engine *e, size_t bytes, void **out)
{
    return e->be->ops->take(e->be, bytes, out);
}

enum err engine_take_copy(struct engine *e, const void *host, size_t bytes, void **out)
{
    void *p;
    *out = NULL;
    TRY(engine_take(e, bytes, &p));
    enum err r = e->be->ops->upload(e->be, p, host, bytes);
    if (r == ERR_OK)
        *out = p;
    else
        engine_give(e, p, bytes);
    return r;
}

void engine_give(struct engine *e, void *data, size_t bytes)
{
    e->be->ops->give(e->be, data, bytes);
}

size_t engine_feature_bytes_of(const struct engine *e, const struct geometry *g)
{
    const struct arch *a = &e->model->arch;
    size_t elem = a->head == HEAD_TV3S ? sizeof(float) : backend_elem(e->be);
    return (size_t)g->grid_width * (size_t)g->grid_height * (size_t)a->embed * elem;
}

size_t engine_feature_bytes(const struct engine *e, const struct plan *p)
{
    return engine_feature_bytes_of(e, &p->geo);
}

/* Frees the least recently used plan that no stream holds. False when all plans are held. */
static bool evict(struct engine *e)
{
    int oldest = -1;
    for (int i = 0; i < e->plans; i++)
        if (e->plan[i]->users == 0 && (oldest < 0 || e->plan[i]->age < e->plan[oldest]->age))
            oldest = i;
    if (oldest < 0)
        return false;
    plan_close(e->plan[oldest], e->be);
    e->plan[oldest] = e->plan[--e->plans];
    return true;
}

enum err engine_plan(struct engine *e, const struct stream_config *c, int width, int height,
                     struct plan **out)
{
    struct geometry geo;
    enum err r = engine_geometry(&e->model->arch, width, height,
                                 c->resize_override ? &c->resize : NULL, &geo);
    if (r != ERR_OK)
        return r;
    for (int i = 0; i < e->plans; i++) {
        const struct geometry *g = &e->plan[i]->geo;
        if (g->width == width && g->height == height && g->net_width == geo.net_width &&
            g->net_height == geo.net_height) {
            e->plan[i]->age = ++e->clock;
            *out = e->plan[i];
            return ERR_OK;
        }
    }
    while (e->plans >= ENGINE_PLANS && evict(e))
        ;
    struct plan **grown = realloc(e->plan, (size_t)(e->plans + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory for a plan");
    e->plan = grown;
    r = plan_open(&e->model->arch, &geo, e->be, out);
    if (r != ERR_OK)
        return r;
    (*out)->age = ++e->clock;
    e->plan[e->plans++] = *out;
    return ERR_OK;
}
