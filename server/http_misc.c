/* Models, health and metrics. */
#include "server/http.h"

#include "base/try.h"
#include "base/whole.h"
#include "engine/arch_parts.h"
#include "server/config.h"
#include "server/describe.h"
#include "server/handover.h"
#include "server/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- models -------------------------------------------------------------------------------------
 */

static json_t *model_json(const struct server *s, const struct served_model *m)
{
    const struct arch *a = &m->model->arch;
    json_t *arch = arch_json(a, "arch");
    return json_pack("{s:s, s:s, s:O, s:O, s:s, s:I, s:o, s:o}", "name", m->name, "architecture",
                     a->name, "resize", json_object_get(arch, "resize"), "output",
                     json_object_get(arch, "output"), "dtype", s->config->dtype, "parameters",
                     (json_int_t)model_parameters(m->model), "arch", arch, "classes",
                     describe_classes(m));
}

enum err models_list(struct request *r)
{
    json_t *list = json_array();
    for (int i = 0; i < models_count(r->server->models); i++)
        whole_add(&list, model_json(r->server, models_at(r->server->models, i)));
    reply_json(r, 200, json_pack("{s:o}", "models", list));
    return ERR_OK;
}

enum err model_get(struct request *r)
{
    struct served_model *m;
    enum err e = models_find(r->server->models, r->name, &m);
    if (!e)
        reply_json(r, 200, model_json(r->server, m));
    return e;
}

/* ---- health -------------------------------------------------------------------------------------
 */

enum err live(struct request *r)
{
    reply_send(r, 200, reply_static("text/plain", "ok\n", 3));
    return ERR_OK;
}

/* Engine thread. Whatever is wrong, "not ready" is 503. */
static void on_probed(void *request, enum err e, const char *text)
{
    struct request *r = request;
    if (e) {
        r->error = err_http(e) == 503 ? e : ERR_BUSY;
        snprintf(r->error_text, sizeof r->error_text, "%s", text);
    }
    request_resume(r);
}

/* Streams go on without their store, so that is told and is no reason to take the daemon out. */
static enum err reply_ready(struct request *r)
{
    struct buf text = {0};
    enum err e = buf_text(&text, "ok\n");
    if (!e && r->server->handover)
        e = handover_describe(r->server->handover, &text);
    if (e) {
        buf_free(&text);
        return e;
    }
    reply_send(r, 200, reply_bytes("text/plain", text.data, text.len));
    return ERR_OK;
}

enum err ready(struct request *r)
{
    TRY(server_takes_work(r->server));
    request_wait(r, reply_ready);
    sched_probe(r->server->sched, on_probed, r);
    return ERR_OK;
}

enum err metrics_get(struct request *r)
{
    struct buf text = {0};
    enum err e = metrics_write(r->server->metrics, &text);
    if (e) {
        buf_free(&text);
        return e;
    }
    reply_send(r, 200, reply_text(r, "text/plain; version=0.0.4", text.data, text.len));
    return ERR_OK;
}
