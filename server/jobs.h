/* Uploaded videos: from the first byte of the body to the deletion of the masks.
 *
 * A job is a folder of the spool: the body as it arrives, the masks frame by frame, and the result.
 * `jobs_running` jobs run at once, each with a thread that demuxes and decodes (from the growing
 * file where the container allows it) and keeps `job_window` frames in flight. The rest wait, first
 * come first served.
 *
 * A job whose body was accepted (job_complete) outlives the process: its row in the spool's
 * database and its files are on the disk before the client is told. What was running then goes on
 * in the next process, and results stay until they are deleted. */
#ifndef TV3S_SERVER_JOBS_H
#define TV3S_SERVER_JOBS_H

#include "server/session.h"

#include <jansson.h>

struct jobs;
struct job;
struct server;

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELLED };

/* What another thread (not one that may wait) did for a job has ended; `text` is the error's. */
typedef void (*job_done)(void *owner, enum err e, const char *text);

/* Whether jobs_open may find or make that folder; makes nothing. ERR_IO. */
enum err jobs_check_spool(const char *spool);
/* Takes up the jobs of the process before. ERR_EXISTS: the spool is another daemon's; ERR_FORMAT:
 * its database cannot be read. */
enum err jobs_open(const struct server *s, struct jobs **out);
/* Before the scheduler stops: no job starts any more, and those that run will end as they are. */
void jobs_stop(struct jobs *j);
/* Waits for what runs. Jobs that were accepted stay on the disk. */
void jobs_close(struct jobs *j);

/* ---- uploading: HTTP thread ------------------------------------------------------------------ */
/* What an upload says beside its parameters; NULL: nothing. */
struct job_terms {
    const char *key;     /* Idempotency-Key */
    const char *webhook; /* a URL that jobs_webhook has allowed */
};
/* ERR_ARG: no upload may name it. */
enum err jobs_webhook(const struct jobs *j, const char *url);
/* A new job of p->owner whose body begins to arrive. ERR_BUSY too many jobs, ERR_QUOTA of this
 * owner, ERR_FULL, ERR_IO; ERR_EXISTS where a job of the owner has the same key. The caller's
 * reference. */
enum err job_begin(struct jobs *j, const struct session_params *p, const struct job_terms *terms,
                   struct job **out);
/* The owner's job that was accepted with the key; a reference. ERR_NOT_FOUND: there is none;
 * ERR_EXISTS: its body is still arriving. */
enum err jobs_find_key(struct jobs *j, const struct owner *owner, const char *key,
                       struct job **out);
/* Whether the digest (digest.h) is that of the job's request. */
bool job_is_of(const struct job *job, const char digest[65]);
/* Appends body bytes. ERR_LIMIT beyond max_upload, ERR_QUOTA, ERR_FULL disk full: the caller
 * aborts. */
enum err job_append(struct job *job, const void *data, size_t len);
/* The body is whole. (The job may be running already.) Calls `done` from another thread when it is
 * durable; after an error (ERR_FULL, ERR_BUSY, ERR_IO; ERR_EXISTS when it was deleted) the caller
 * aborts. */
void job_complete(struct job *job, job_done done, void *owner);
/* The upload broke off: the job and its files go. */
void job_abort(struct job *job);

/* ---- asking: any thread ---------------------------------------------------------------------- */
/* The owner's job of that ID; a reference. ERR_NOT_FOUND, also where another owner has it. */
enum err jobs_find(struct jobs *j, const struct owner *owner, const char *id, struct job **out);
void job_unref(struct job *job); /* NULL is allowed */
const char *job_id(const struct job *job);
enum mask_format job_format(const struct job *job);
enum job_state job_state(struct job *job);
json_t *job_json(struct job *job); /* as PROTOCOL.md; a new reference */
const struct owner *job_owner(const struct job *job);
json_t *jobs_json(struct jobs *j, const struct owner *owner); /* the owner's, newest first */
/* Changes with every event; job_json between two equal values is the same. */
uint64_t job_version(struct job *job);
/* The result file, opened for reading, and its MIME type and suggested name. ERR_EXISTS before. */
enum err job_result(struct job *job, int *fd, uint64_t *size, const char **mime, char name[64]);
/* One frame's mask as malloc'd bytes, and its time in seconds. ERR_NOT_FOUND before it is done. */
enum err job_frame(struct job *job, uint64_t n, void **data, size_t *len, double *time,
                   const char **mime);
/* Cancels when not ended, takes it out of the list, deletes its files when the last user is gone.
 * Calls `done` (or NULL) from another thread when that is durable, or at once from this one when
 * it was deleted before. With an error it may be there again in the next process. */
void job_delete(struct jobs *j, struct job *job, job_done done, void *owner);

/* Called (any thread) after every change of any job, at most 20 a second per job. */
void jobs_listen(struct jobs *j, void (*changed)(void *ctx), void *ctx);
/* Finished jobs older than `job_keep` seconds go; those that wait for room may try again, and ends
 * and deletions that could not be written are. Housekeeping thread. */
void jobs_expire(struct jobs *j);

#endif
