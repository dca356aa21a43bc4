#include "server/http.h"

#include "server/config.h"
#include "server/describe.h"
#include "server/digest.h"
#include "server/http_headers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- upload -------------------------------------------------------------------------------------
 */

/* A request that was answered before: its body is read again to see that it is the same. */
static enum err begin_again(struct request *r, const char *key)
{
    enum err e = jobs_find_key(r->server->jobs, r->params.owner, key, &r->job);
    if (e == ERR_NOT_FOUND)
        return ERR_OK;
    if (e)
        return e;
    const char *webhook = request_query(r, "webhook");
    return digest_open(&r->params, webhook ? webhook : "", &r->repeated);
}

static enum err check_webhook(struct request *r)
{
    const char *url = request_query(r, "webhook");
    return url ? jobs_webhook(r->server->jobs, url) : ERR_OK;
}

enum err video_begin(struct request *r)
{
    const char *key = request_header(r, "Idempotency-Key");
    r->limit = r->server->config->max_upload;
    enum err e = request_params(r);
    if (!e)
        e = check_webhook(r);
    if (e || !key)
        return e;
    if (!key_valid(key))
        return err_set(ERR_ARG, "an Idempotency-Key has 1 to 255 visible ASCII characters");
    return begin_again(r, key);
}

static enum err take_again(struct request *r, const void *data, size_t len)
{
    digest_add(r->repeated, data, len);
    return digest_bytes(r->repeated) <= r->limit
               ? ERR_OK
               : err_set(ERR_LIMIT, "the video has more than %llu bytes",
                         (unsigned long long)r->limit);
}

/* The job begins with the first byte: what is refused before leaves nothing behind. */
enum err video_take(struct request *r, const void *data, size_t len)
{
    if (r->repeated)
        return take_again(r, data, len);
    if (!r->job) {
        struct job_terms terms = {request_header(r, "Idempotency-Key"),
                                  request_query(r, "webhook")};
        enum err e = job_begin(r->server->jobs, &r->params, &terms, &r->job);
        if (e)
            return e;
        r->job_open = true;
    }
    return job_append(r->job, data, len);
}

/* jobs_writer.c's thread. */
static void on_written(void *request, enum err e, const char *text)
{
    struct request *r = request;
    r->error = e;
    snprintf(r->error_text, sizeof r->error_text, "%s", text);
    request_resume(r);
}

static enum err reply_accepted(struct request *r)
{
    char location[SESSION_ID + 16];
    r->job_open = false;
    snprintf(location, sizeof location, "/v1/videos/%s", job_id(r->job));
    reply_json_at(r, 202, job_json(r->job), location);
    return ERR_OK;
}

static enum err answer_again(struct request *r)
{
    char digest[65];
    digest_end(r->repeated, digest);
    r->repeated = NULL;
    if (job_is_of(r->job, digest))
        return reply_accepted(r);
    reply_send(r, 422,
               reply_problem_of(r, 422, "key-reused", "the key is another request's",
                                "an upload with this Idempotency-Key had other parameters or "
                                "another body"));
    return ERR_OK;
}

enum err video_answer(struct request *r)
{
    if (!r->job)
        return err_set(ERR_ARG, "the video is empty");
    if (r->repeated)
        return answer_again(r);
    request_wait(r, reply_accepted);
    job_complete(r->job, on_written, r);
    return ERR_OK;
}

/* ---- jobs ---------------------------------------------------------------------------------------
 */

enum err videos_list(struct request *r)
{
    reply_json(r, 200, json_pack("{s:o}", "videos", jobs_json(r->server->jobs, r->owner)));
    return ERR_OK;
}

enum err video_get(struct request *r)
{
    enum err e = request_job(r);
    if (!e)
        reply_json(r, 200, job_json(r->job));
    return e;
}

static enum err reply_deleted(struct request *r)
{
    reply_empty(r, 204);
    return ERR_OK;
}

enum err video_delete(struct request *r)
{
    enum err e = request_job(r);
    if (e)
        return e;
    request_wait(r, reply_deleted);
    job_delete(r->server->jobs, r->job, on_written, r);
    return ERR_OK;
}

/* ---- masks --------------------------------------------------------------------------------------
 */

struct whole {
    int fd;
    uint64_t size;
    const char *mime;
    char name[64], tag[64];
};

/* What is asked for, RFC 9110's way: If-Range that does not match means all of it. */
static enum range_kind wanted(struct request *r, const struct whole *w, uint64_t *first,
                              uint64_t *length)
{
    const char *range = request_header(r, "Range"), *unless = request_header(r, "If-Range");
    char tag[80];
    snprintf(tag, sizeof tag, "\"%s\"", w->tag);
    bool stale = unless && strcmp(unless, tag) != 0;
    return range_parse(stale ? NULL : range, w->size, first, length);
}

static void reply_outside(struct request *r, struct whole *w)
{
    struct MHD_Response *answer = reply_problem_of(r, 416, "range", "the range lies outside",
                                                   "Content-Range tells the length");
    close(w->fd);
    reply_header(&answer, "Content-Range", "bytes */%llu", (unsigned long long)w->size);
    reply_send(r, 416, answer);
}

/* The whole, or the part that is asked for, as it is. */
static struct MHD_Response *answer_plain(const struct whole *w, enum range_kind kind,
                                         uint64_t first, uint64_t length)
{
    struct MHD_Response *answer = MHD_create_response_from_fd_at_offset64(length, w->fd, first);
    if (!answer) {
        close(w->fd);
        return NULL;
    }
    reply_header(&answer, "Accept-Ranges", "bytes");
    reply_header(&answer, "ETag", "\"%s\"", w->tag);
    if (kind == RANGE_PART)
        reply_header(&answer, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)first,
                     (unsigned long long)(first + length - 1), (unsigned long long)w->size);
    return answer;
}

/* Compressed bytes have no ranges, and a tag of their own. */
static struct MHD_Response *answer_zipped(const struct whole *w)
{
    struct MHD_Response *answer = gzip_file(w->fd);
    reply_header(&answer, "ETag", "\"%s-gzip\"", w->tag);
    return answer;
}

enum err video_masks(struct request *r)
{
    struct whole w;
    uint64_t first, length;
    enum err e = request_job(r);
    if (!e)
        e = job_result(r->job, &w.fd, &w.size, &w.mime, w.name);
    if (e)
        return e;
    snprintf(w.tag, sizeof w.tag, "%.40s", job_id(r->job)); /* a result never changes */
    enum range_kind kind = wanted(r, &w, &first, &length);
    if (kind == RANGE_OUTSIDE) {
        reply_outside(r, &w);
        return ERR_OK;
    }
    bool pays = gzip_pays(job_format(r->job));
    bool zip = pays && r->gzip && w.size >= GZIP_MIN && !request_header(r, "Range");
    struct MHD_Response *answer = zip ? answer_zipped(&w) : answer_plain(&w, kind, first, length);
    if (!answer)
        return err_set(ERR_NOMEM, "no memory for an answer");
    if (pays)
        gzip_headers(&answer, zip);
    reply_header(&answer, "Content-Type", "%s", w.mime);
    reply_header(&answer, "Content-Disposition", "inline; filename=\"%s\"", w.name);
    reply_header(&answer, "Cache-Control", "private, max-age=3600");
    reply_send(r, kind == RANGE_PART ? 206 : 200, answer);
    return ERR_OK;
}

enum err video_mask(struct request *r)
{
    void *data;
    size_t len;
    double time;
    const char *mime;
    enum err e = request_job(r);
    if (!e)
        e = job_frame(r->job, r->number, &data, &len, &time, &mime);
    if (e)
        return e;
    struct MHD_Response *answer = gzip_pays(job_format(r->job)) ? reply_text(r, mime, data, len)
                                                                : reply_bytes(mime, data, len);
    reply_header(&answer, "X-Tv3s-Time", "%.6f", time);
    reply_header(&answer, "Cache-Control", "private, max-age=3600");
    reply_send(r, 200, answer);
    return ERR_OK;
}
