/* What clients are told of jobs. */
#include "server/job.h"

#include "base/whole.h"
#include "base/try.h"
#include "server/describe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const states[] = {"queued", "running", "succeeded", "failed", "cancelled"};

const char *job_state_name(enum job_state state)
{
    return states[state];
}

const char *job_id(const struct job *job)
{
    return job->id;
}

const struct owner *job_owner(const struct job *job)
{
    return job->params.owner;
}

enum mask_format job_format(const struct job *job)
{
    return job->params.format;
}

enum job_state job_state(struct job *job)
{
    pthread_mutex_lock(&job->jobs->lock);
    enum job_state state = job->state;
    pthread_mutex_unlock(&job->jobs->lock);
    return state;
}

uint64_t job_version(struct job *job)
{
    return atomic_load(&job->version);
}

enum err jobs_find(struct jobs *j, const struct owner *owner, const char *id, struct job **out)
{
    pthread_mutex_lock(&j->lock);
    struct job *job = j->first;
    while (job && (job->params.owner != owner || strcmp(job->id, id) != 0))
        job = job->next;
    *out = job ? job_ref(job) : NULL;
    pthread_mutex_unlock(&j->lock);
    return job ? ERR_OK : err_set(ERR_NOT_FOUND, "there is no video '%.40s'", id);
}

/* ---- JSON ---------------------------------------------------------------------------------------
 */

static json_t *time_or_null(double seconds)
{
    return seconds > 0 ? describe_time(seconds) : json_null();
}

/* `r->done`: frames that can be asked for. */
static json_t *describe(const struct job_row *r)
{
    char masks[SESSION_ID + 32];
    bool succeeded = strcmp(r->state, states[JOB_SUCCEEDED]) == 0;
    snprintf(masks, sizeof masks, "/v1/videos/%s/masks", r->id);
    json_t *total = r->total > 0 || succeeded ? json_integer(r->total) : json_null();
    json_t *frames = json_pack("{s:I, s:o, s:I}", "done", (json_int_t)r->done, "total", total,
                               "corrupt", (json_int_t)r->corrupt);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id",
        r->id, "state", r->state, "model", r->model, "mode", r->mode, "format", r->format,
        "created", describe_time(r->created), "started", time_or_null(r->started), "finished",
        time_or_null(r->finished), "frames", frames, "size",
        r->width > 0 ? json_pack("[ii]", r->width, r->height) : json_null(), "fps",
        r->fps > 0 ? json_real(r->fps) : json_null(), "error",
        r->error[0] ? describe_problem(err_of_type(r->error), r->problem, NULL) : json_null(),
        "warning", r->warning[0] ? json_string(r->warning) : json_null(), "decoder",
        r->decoder[0] ? json_string(r->decoder) : json_null(), "masks",
        succeeded ? json_string(masks) : json_null(), "webhook",
        r->webhook[0] ? json_string(r->webhook) : json_null());
}

char *job_webhook_body(const struct job_row *row, const char *id)
{
    json_t *o = json_pack("{s:s, s:s, s:o}", "type", "job.ended", "id", id, "job", describe(row));
    char *text = o ? json_dumps(o, DESCRIBE_DUMP) : NULL;
    json_decref(o);
    return text;
}

/* With the lock held. */
static json_t *describe_job(const struct job *job)
{
    struct job_row row;
    job_row(job, &row);
    row.done = (int64_t)job->done;
    return describe(&row);
}

json_t *job_json(struct job *job)
{
    pthread_mutex_lock(&job->jobs->lock);
    json_t *o = describe_job(job);
    pthread_mutex_unlock(&job->jobs->lock);
    return o;
}

json_t *jobs_json(struct jobs *j, const struct owner *owner)
{
    json_t *list = json_array();
    pthread_mutex_lock(&j->lock);
    for (const struct job *job = j->last; job; job = job->previous)
        if (job->params.owner == owner)
            whole_add(&list, describe_job(job));
    pthread_mutex_unlock(&j->lock);
    return list;
}

/* ---- masks --------------------------------------------------------------------------------------
 */

static const char *ending_of(const struct job *job)
{
    static const char *const ending[] = {
        [MASK_PNG] = "zip",        [MASK_RAW] = "raw",     [MASK_RLE] = "jsonl",
        [MASK_COCO_RLE] = "jsonl", [MASK_OVERLAY] = "mp4", [MASK_LABELS] = "mkv",
    };
    return ending[job->params.format];
}

void job_result_name(const struct job *job, char name[32])
{
    snprintf(name, 32, "masks.%s", ending_of(job));
}

enum err job_result(struct job *job, int *fd, uint64_t *size, const char **mime, char name[64])
{
    static const char *const mimes[] = {
        [MASK_PNG] = "application/zip",      [MASK_RAW] = "application/octet-stream",
        [MASK_RLE] = "application/x-ndjson", [MASK_COCO_RLE] = "application/x-ndjson",
        [MASK_OVERLAY] = "video/mp4",        [MASK_LABELS] = "video/x-matroska",
    };
    enum job_state state = job_state(job);
    if (state == JOB_FAILED || state == JOB_CANCELLED)
        return err_set(ERR_NO_RESULT, "the job has failed: it has no result");
    if (state != JOB_SUCCEEDED)
        return err_set(ERR_NO_RESULT, "the job is not done");
    *mime = mimes[job->params.format];
    snprintf(name, 64, "%.40s.%s", job->id, ending_of(job));
    char file[32];
    job_result_name(job, file);
    return spool_read(job, file, fd, size);
}

static enum err read_entry(struct job *job, uint64_t n, struct spool_entry *entry)
{
    uint64_t size;
    int fd;
    TRY(spool_read(job, SPOOL_INDEX, &fd, &size));
    enum err e = spool_read_at(fd, n * sizeof *entry, entry, sizeof *entry);
    close(fd);
    return e;
}

/* Opens what holds the mask. A job that ends meanwhile puts its single masks away: then the result
 * has them. */
static enum err open_masks(struct job *job, const struct spool_entry *entry, int *fd,
                           uint64_t *offset, uint64_t *len)
{
    char result[32];
    uint64_t size;
    *offset = entry->offset;
    *len = entry->len;
    if (spool_has(job, SPOOL_FRAMES) && spool_read(job, SPOOL_FRAMES, fd, &size) == ERR_OK)
        return ERR_OK;
    *offset = entry->result_offset;
    *len = entry->result_len;
    job_result_name(job, result);
    return spool_read(job, result, fd, &size);
}

static enum err read_mask(struct job *job, uint64_t n, void **data, size_t *len, double *time)
{
    struct spool_entry entry;
    uint64_t offset, size;
    int fd;
    TRY(read_entry(job, n, &entry));
    TRY(open_masks(job, &entry, &fd, &offset, &size));
    *data = malloc(size ? size : 1);
    enum err e =
        *data ? spool_read_at(fd, offset, *data, size) : err_set(ERR_NOMEM, "no memory for a mask");
    close(fd);
    *len = size;
    *time = entry.time;
    if (e) {
        free(*data);
        *data = NULL;
    }
    return e;
}

enum err job_frame(struct job *job, uint64_t n, void **data, size_t *len, double *time,
                   const char **mime)
{
    pthread_mutex_lock(&job->jobs->lock);
    bool there = n < job->done;
    pthread_mutex_unlock(&job->jobs->lock);
    *data = NULL;
    *mime = mask_format_mime(job->params.format);
    if (!there)
        return err_set(ERR_NOT_FOUND, "frame %llu is not done", (unsigned long long)n);
    return read_mask(job, n, data, len, time);
}
