/* What a stream's record in Redis says of it, from whoever can write there. What is accepted is in
 * range, and comes out as it went in. */
#include "server/handover_parts.h"
#include "server/log.h"
#include "server/models.h"
#include "server/server.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server server;
static struct session session = {.id = "cam"};

static void start(void)
{
    static struct config config;
    static char *argv[] = {"tv3sd", "--model", "models/street.safetensors", "--threads", "1", NULL};
    enum config_action action;
    log_level_set(LOG_ERROR);
    if (config_load(&config, 5, argv, &action) || models_open(&config, &server.models))
        abort();
}

static void check(const struct record *r)
{
    const struct session_params *p = &r->params;
    if (!p->model || p->stream.mode > MODE_FRAME || r->seq < -1 || r->seq == INT64_MAX ||
        r->frames > INT64_MAX || r->width < 0 || r->width > ENGINE_MAX_SIDE || r->height < 0 ||
        r->height > ENGINE_MAX_SIDE)
        abort();
}

static void expect_same(const struct record *a)
{
    struct record b;
    session.params = a->params;
    session.created = a->created;
    atomic_store(&session.last_seq, a->seq);
    atomic_store(&session.frames, a->frames);
    atomic_store(&session.frame_width, a->width);
    atomic_store(&session.frame_height, a->height);
    char *text = record_write(&session);
    if (!text || record_read(&server, &session, text, strlen(text), &b))
        abort();
    free(text);
    if (!b.same_weights || b.seq != a->seq || b.frames != a->frames || b.width != a->width ||
        b.height != a->height || b.created != a->created || b.params.model != a->params.model ||
        b.params.format != a->params.format || b.params.stream.mode != a->params.stream.mode ||
        !session_same_resize(&b.params.stream, &a->params.stream))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record r;
    if (!server.models)
        start();
    if (record_read(&server, &session, (const char *)data, size, &r)) {
        if (!err_text()[0])
            abort();
        return 0;
    }
    check(&r);
    expect_same(&r);
    return 0;
}
