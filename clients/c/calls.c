/* The calls over HTTP: paths, and files up and down. */
#include "clients/c/parts.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { POLL_MS = 200 };

/* A call: "METHOD /v1/COLLECTION/ID" + rest, with parameters. */
struct call {
    const char *method, *collection, *id, *rest;
    const struct tv3s_params *params;
    tv3s_progress *progress;
    void *ctx;
};

/* ---- paths --------------------------------------------------------------------------------------
 */

static bool id_valid(const char *id)
{
    size_t len = strlen(id);
    return len >= 1 && len <= 128 &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-") == len;
}

static enum err add_param(struct tv3s *c, struct buf *out, const char *name, const char *value)
{
    if (!value)
        return ERR_OK;
    char *escaped = curl_easy_escape(c->curl, value, 0);
    char sign = memchr(out->data, '?', out->len) ? '&' : '?';
    enum err e =
        escaped ? buf_printf(out, "%c%s=%s", sign, name, escaped) : err_set(ERR_NOMEM, "no memory");
    curl_free(escaped);
    return e;
}

static enum err add_params(struct tv3s *c, struct buf *out, const struct tv3s_params *p)
{
    enum err e = add_param(c, out, "model", p->model);
    e = e ? e : add_param(c, out, "mode", p->mode);
    e = e ? e : add_param(c, out, "format", p->format);
    e = e ? e : add_param(c, out, "resize", p->resize);
    return e ? e : add_param(c, out, "webhook", p->webhook);
}

static enum tv3s_result make_path(struct tv3s *c, struct buf *out, const struct call *call)
{
    if (call->id && !id_valid(call->id))
        return client_fail(c, TV3S_ARGUMENT,
                           "'%s' is no ID: those are 1 to 128 of A-Z a-z 0-9 . _ ~ -", call->id);
    const char *id = call->id ? call->id : "", *rest = call->rest ? call->rest : "";
    enum err e = buf_printf(out, "/v1/%s%s%s%s", call->collection, *id ? "/" : "", id, rest);
    if (!e && call->params)
        e = add_params(c, out, call->params);
    return client_err(c, e);
}

enum tv3s_result client_stream_path(struct tv3s *c, struct buf *out, const char *id,
                                    const struct tv3s_stream_options *o)
{
    static const char *const drops[] = {NULL, "oldest", "newest"};
    enum tv3s_result r = make_path(
        c, out,
        &(struct call){.collection = "streams", .id = id, .rest = "/ws", .params = &o->params});
    char credit[16] = "";
    if (r)
        return r;
    if (o->credit)
        snprintf(credit, sizeof credit, "%d", o->credit);
    enum err e = add_param(c, out, "credit", o->credit ? credit : NULL);
    e = e ? e : add_param(c, out, "drop", drops[o->drop]);
    e = e ? e : add_param(c, out, "takeover", o->takeover ? "1" : NULL);
    return client_err(c, e);
}

static enum tv3s_result ask(struct tv3s *c, const struct call *call, struct request r)
{
    struct buf path = {0};
    enum tv3s_result result = make_path(c, &path, call);
    r.method = call->method;
    r.path = (const char *)path.data;
    r.progress = call->progress;
    r.ctx = call->ctx;
    if (!result)
        result = client_request(c, &r);
    buf_free(&path);
    return result;
}

enum tv3s_result tv3s_get(struct tv3s *c, const char *path, const char **json)
{
    enum tv3s_result r = client_request(c, &(struct request){.method = "GET", .path = path});
    if (!r && c->body.len == 0)
        r = client_fail(c, TV3S_PROTOCOL, "an empty answer");
    *json = r ? NULL : (const char *)c->body.data;
    return r;
}

/* ---- files up and down --------------------------------------------------------------------------
 */

static enum tv3s_result send_file(struct tv3s *c, const struct call *call, const char *file)
{
    bool standard = strcmp(file, "-") == 0;
    struct request r = {.from = standard ? stdin : fopen(file, "rbe"), .len = -1};
    struct stat st;
    if (!r.from)
        return client_fail(c, TV3S_FILE, "cannot read %s: %m", file);
    if (fstat(fileno(r.from), &st) == 0 && S_ISREG(st.st_mode))
        r.len = st.st_size;
    enum tv3s_result result = ask(c, call, r);
    if (!standard)
        fclose(r.from);
    return result;
}

/* `path` "-" is standard output. */
static enum tv3s_result open_output(struct tv3s *c, const char *path, struct outfile **out)
{
    return client_err(c, outfile_open(strcmp(path, "-") == 0 ? "/dev/stdout" : path, out));
}

/* Whole, or not there: `r` is what became of the writing. */
static enum tv3s_result close_output(struct tv3s *c, struct outfile *f, enum tv3s_result r)
{
    if (!r)
        return client_err(c, outfile_commit(f));
    outfile_abort(f);
    return r;
}

static enum tv3s_result fetch_file(struct tv3s *c, const struct call *call, const char *file)
{
    struct request r = {0};
    enum tv3s_result result = open_output(c, file, &r.to);
    return result ? result : close_output(c, r.to, ask(c, call, r));
}

enum tv3s_result tv3s_segment(struct tv3s *c, const char *image, const struct tv3s_params *p,
                              const char *path)
{
    /* Mask and image are small: the mask is kept until it is whole. */
    struct outfile *to;
    enum tv3s_result r =
        send_file(c, &(struct call){.method = "POST", .collection = "segment", .params = p}, image);
    if (!r)
        r = open_output(c, path, &to);
    if (r)
        return r;
    return close_output(c, to, client_err(c, outfile_write(to, c->body.data, c->body.len)));
}

enum tv3s_result tv3s_save_state(struct tv3s *c, const char *id, const char *path)
{
    return fetch_file(c, &(struct call){"GET", "streams", id, .rest = "/state"}, path);
}

enum tv3s_result tv3s_restore_state(struct tv3s *c, const char *id, const char *path)
{
    enum tv3s_result r = ask(c, &(struct call){"PUT", "streams", .id = id}, (struct request){0});
    return r ? r : send_file(c, &(struct call){"PUT", "streams", id, .rest = "/state"}, path);
}

enum tv3s_result tv3s_reset(struct tv3s *c, const char *id)
{
    return ask(c, &(struct call){"POST", "streams", id, .rest = "/reset"}, (struct request){0});
}

enum tv3s_result tv3s_delete_stream(struct tv3s *c, const char *id)
{
    return ask(c, &(struct call){"DELETE", "streams", .id = id}, (struct request){0});
}

/* ---- jobs ---------------------------------------------------------------------------------------
 */

static enum tv3s_result read_job(struct tv3s *c, struct tv3s_job *out)
{
    static const char *const states[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    json_t *j = json_loadb((const char *)c->body.data, c->body.len, 0, NULL);
    const char *id = json_string_value(json_object_get(j, "id"));
    const char *name = json_string_value(json_object_get(j, "state"));
    const json_t *frames = json_object_get(j, "frames"), *error = json_object_get(j, "error");
    const json_t *total = json_object_get(frames, "total");
    const char *why = json_string_value(json_object_get(error, "detail"));
    const char *warning = json_string_value(json_object_get(j, "warning"));
    int state = 4;
    while (state >= 0 && (!name || strcmp(name, states[state]) != 0))
        state--;
    bool known = id && strlen(id) < sizeof out->id && state >= 0;
    *out = (struct tv3s_job){.state = known ? (enum tv3s_state)state : TV3S_FAILED};
    if (known) {
        snprintf(out->id, sizeof out->id, "%s", id);
        out->done = json_integer_value(json_object_get(frames, "done"));
        out->total = json_is_integer(total) ? json_integer_value(total) : -1;
        if (!why)
            why = json_string_value(json_object_get(error, "title"));
        snprintf(out->error, sizeof out->error, "%s", why ? why : "");
        snprintf(out->warning, sizeof out->warning, "%s", warning ? warning : "");
    }
    json_decref(j);
    return known ? TV3S_OK : client_fail(c, TV3S_PROTOCOL, "the answer is no job");
}

enum tv3s_result tv3s_upload(struct tv3s *c, const char *path, const struct tv3s_params *p,
                             tv3s_progress *progress, void *ctx, struct tv3s_job *out)
{
    const struct call call = {"POST", "videos", .params = p, .progress = progress, .ctx = ctx};
    enum tv3s_result r = send_file(c, &call, path);
    return r ? r : read_job(c, out);
}

enum tv3s_result tv3s_job(struct tv3s *c, const char *id, struct tv3s_job *out)
{
    enum tv3s_result r = ask(c, &(struct call){"GET", "videos", .id = id}, (struct request){0});
    return r ? r : read_job(c, out);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

enum tv3s_result tv3s_wait(struct tv3s *c, const char *id, tv3s_progress *progress, void *ctx,
                           struct tv3s_job *out)
{
    for (int64_t heard = now_ms();;) {
        enum tv3s_result r = tv3s_job(c, id, out);
        if (r == TV3S_OK) {
            heard = now_ms();
            if (progress && !progress(ctx, out->done, out->total))
                return client_fail(c, TV3S_STOPPED, "stopped");
            if (out->state >= TV3S_SUCCEEDED)
                return TV3S_OK;
        } else if (r != TV3S_LOST || now_ms() - heard > c->timeout_ms) {
            return r;
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
}

enum tv3s_result tv3s_masks(struct tv3s *c, const char *id, const char *path,
                            tv3s_progress *progress, void *ctx)
{
    const struct call call = {"GET", "videos", id, "/masks", .progress = progress, .ctx = ctx};
    return fetch_file(c, &call, path);
}

enum tv3s_result tv3s_delete_job(struct tv3s *c, const char *id)
{
    return ask(c, &(struct call){"DELETE", "videos", .id = id}, (struct request){0});
}
