#include "server/http.h"

#include "base/whole.h"
#include "server/config.h"
#include "server/describe.h"
#include "server/handover.h"
#include "server/sched.h"
#include "server/workers.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ----------------------------------------------------------------------------------
 */

struct stream_list {
    struct session **item;
    size_t count, room;
};

static void collect(void *list, struct session *s)
{
    struct stream_list *l = list;
    if (l->count < l->room)
        l->item[l->count++] = session_ref(s);
}

enum err streams_list(struct request *r)
{
    struct stream_list l = {.room = sessions_count(r->server->sessions) + 16};
    json_t *streams = json_array();
    l.item = calloc(l.room, sizeof *l.item);
    if (!l.item)
        whole_add(&streams, NULL);
    else
        sessions_each(r->server->sessions, r->owner, collect, &l);
    for (size_t i = 0; i < l.count; i++) {
        whole_add(&streams, describe_stream(l.item[i]));
        session_unref(l.item[i]);
    }
    free(l.item);
    reply_json(r, 200, json_pack("{s:o}", "streams", streams));
    return ERR_OK;
}

static enum err reply_stream(struct request *r, bool created)
{
    char location[SESSION_ID + 16];
    if (request_query(r, "format") && r->params.format != r->session->params.format)
        return err_set(ERR_EXISTS, "stream '%s' is there with another format", r->session->id);
    snprintf(location, sizeof location, "/v1/streams/%s", r->session->id);
    reply_json_at(r, created ? 201 : 200, describe_stream(r->session), created ? location : NULL);
    return ERR_OK;
}

static enum err reply_opened(struct request *r)
{
    return reply_stream(r, !r->session->resumed);
}

/* Hand-over's thread. */
static void on_opened(void *request, enum err e, const char *text)
{
    struct request *r = request;
    r->error = e;
    snprintf(r->error_text, sizeof r->error_text, "%s", text);
    request_resume(r);
}

/* It was made just now: what it has elsewhere, once it is ours. */
static void take_up(struct request *r, bool stored, handler then)
{
    const struct take_up want = {.model = !stored,
                                 .mode = !stored,
                                 .resize = !stored,
                                 .stored = stored,
                                 .done = on_opened,
                                 .owner = r};
    request_wait(r, then);
    handover_take_up(r->server->handover, r->session, &want);
}

static enum err make(struct request *r, const char *id)
{
    bool created = false;
    enum err e = request_params(r);
    if (!e)
        e = server_takes_work(r->server);
    if (!e)
        e = session_make(r->server->sessions, id, &r->params, &created, &r->session);
    if (e || !created || !r->server->handover)
        return e ? e : reply_stream(r, created);
    take_up(r, false, reply_opened);
    return ERR_OK;
}

enum err stream_create(struct request *r)
{
    return make(r, NULL);
}

enum err stream_put(struct request *r)
{
    return make(r, r->name);
}

enum err stream_get(struct request *r)
{
    enum err e = request_session(r);
    if (!e)
        reply_json(r, 200, describe_stream(r->session));
    return e;
}

/* The stream that the path names, if need be from the store, and then `then`. */
static enum err with_stream(struct request *r, handler then)
{
    struct server *s = r->server;
    bool created;
    enum err e = r->session ? ERR_OK : request_session(r);
    if (e != ERR_NOT_FOUND || !s->handover)
        return e ? e : then(r);
    r->params = (struct session_params){.owner = r->owner, .format = MASK_PNG};
    TRY(models_find(s->models, NULL, &r->params.model));
    TRY(session_make(s->sessions, r->name, &r->params, &created, &r->session));
    if (!created)
        return then(r);
    take_up(r, true, then);
    return ERR_OK;
}

/* The same before the body is here: not to be found is found later. */
static enum err find_first(struct request *r)
{
    enum err e = request_session(r);
    return e == ERR_NOT_FOUND && r->server->handover ? ERR_OK : e;
}

static enum err delete_now(struct request *r)
{
    session_delete(r->server->sessions, r->session);
    if (r->server->ws)
        ws_stream_gone(r->server->ws, r->session, "deleted");
    reply_empty(r, 204);
    return ERR_OK;
}

enum err stream_delete(struct request *r)
{
    return with_stream(r, delete_now);
}

/* ---- frames -------------------------------------------------------------------------------------
 */

enum err stream_frame_begin(struct request *r)
{
    enum err e = find_first(r);
    return e ? e : image_begin(r);
}

enum err stream_frame(struct request *r)
{
    if (r->input.len == 0)
        return err_set(ERR_ARG, "the image is empty");
    return with_stream(r, image_segment);
}

/* ---- state: commands to the engine thread -------------------------------------------------------
 */

/* Engine thread. */
static void on_done(struct command *c)
{
    struct request *r = c->owner;
    if (c->error) {
        r->error = c->error;
        snprintf(r->error_text, sizeof r->error_text, "%s", c->error_text);
    }
    if (c->kind == COMMAND_EXPORT) {
        r->data = c->data;
        r->data_len = c->len;
    } else {
        free(c->data);
    }
    free(c);
    request_resume(r);
}

static enum err command(struct request *r, enum command_kind kind, handler resumed)
{
    struct command *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "no memory for a command");
    c->kind = kind;
    c->session = session_ref(r->session);
    c->done = on_done;
    c->owner = r;
    c->data = r->input.data;
    c->len = r->input.len;
    r->input = (struct buf){0};
    request_wait(r, resumed);
    workers_command(r->server->workers, c);
    return ERR_OK;
}

static enum err reply_done(struct request *r)
{
    reply_empty(r, 204);
    return ERR_OK;
}

static enum err reset_now(struct request *r)
{
    return command(r, COMMAND_RESET, reply_done);
}

enum err stream_reset_state(struct request *r)
{
    return with_stream(r, reset_now);
}

static enum err reply_state(struct request *r)
{
    struct MHD_Response *answer = reply_bytes("application/x-safetensors", r->data, r->data_len);
    r->data = NULL;
    reply_header(&answer, "Content-Disposition", "attachment; filename=\"%.128s.safetensors\"",
                 r->session->id);
    reply_send(r, 200, answer);
    return ERR_OK;
}

static enum err export_now(struct request *r)
{
    return command(r, COMMAND_EXPORT, reply_state);
}

enum err stream_state_get(struct request *r)
{
    return with_stream(r, export_now);
}

enum err stream_state_begin(struct request *r)
{
    r->limit = r->server->config->max_state_import;
    return find_first(r);
}

static enum err import_now(struct request *r)
{
    return command(r, COMMAND_IMPORT, reply_done);
}

enum err stream_state_put(struct request *r)
{
    if (r->input.len == 0)
        return err_set(ERR_ARG, "the state is empty");
    return with_stream(r, import_now);
}
