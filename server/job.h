/* Jobs from inside; nobody but server/jobs*.c includes this.
 *
 *   jobs.c        the list: from the first byte of an upload to its deletion, and who may run
 *   jobs_spool.c  the folder of a job and the files in it
 *   jobs_run.c    the thread of a running job
 *   jobs_json.c   what clients are told
 *
 * One lock, of the list, guards what is marked so. A job's thread sleeps on its `wake`. */
#ifndef TV3S_SERVER_JOB_H
#define TV3S_SERVER_JOB_H

#include "server/jobs.h"
#include "server/server.h"

#include <pthread.h>

struct jobs {
    const struct server *server;
    char *spool;
    int spool_lock; /* a locked file: one daemon a spool */

    pthread_mutex_t lock;
    pthread_cond_t idle;      /* `threads` fell */
    struct job *first, *last; /* oldest first */
    int count;
    int threads; /* running jobs */
    int asleep;  /* of those, how many wait for bytes of their upload */
    bool closing;
    void (*changed)(void *ctx);
    void *changed_ctx;
};

struct job {
    struct jobs *jobs;
    struct job *next, *previous; /* the lock */
    atomic_int refs;             /* the list, the thread, requests */
    char id[SESSION_ID];
    char *folder;
    struct session_params params;
    double created;
    atomic_bool cancelled;
    int upload; /* HTTP thread, until job_complete or job_abort; -1 then */

    /* the lock */
    bool listed;
    bool whole;       /* the body is complete */
    bool streamable;  /* it can run before that */
    uint64_t arrived; /* bytes of the body */
    enum job_state state;
    double started, finished;
    uint64_t done; /* frames whose masks can be asked for */
    int64_t total; /* 0: not known */
    int64_t corrupt;
    int width, height;
    double fps;
    enum err error;
    char error_text[512];
    atomic_ullong version; /* read without it */
    uint64_t told;         /* clock_ns of the last call of `changed` */
    pthread_cond_t wake;   /* bytes came, a frame came back, or it was cancelled */
    struct item *returned; /* frames that came back, by seq */
};

/* ---- jobs.c */
/* With the lock held: something that clients see has changed. `always`: tell it, however soon
 * after the last. */
void job_changed(struct job *job, bool always);
/* With the lock held. */
void job_set_state(struct job *job, enum job_state state);
/* With the lock held: the thread of a job waits for bytes, or no more; it has ended. */
void jobs_asleep(struct jobs *j, bool asleep);
void jobs_ended(struct jobs *j);
struct job *job_ref(struct job *job);

/* ---- jobs_spool.c: files of a job. Names are relative to its folder */
enum err spool_open(struct jobs *j); /* takes the spool over, and empties it */
void spool_close(struct jobs *j);
enum err spool_make(struct job *job); /* the folder and the upload's file */
void spool_remove(struct job *job);   /* all of it */
void spool_path(const struct job *job, const char *name, char path[4096]);
/* Gives a file a second name that stays when the first goes. */
enum err spool_keep(struct job *job, const char *path, const char *name);
enum err spool_create(struct job *job, const char *name, int *fd);
enum err spool_read(struct job *job, const char *name, int *fd, uint64_t *size);
enum err spool_write_at(int fd, uint64_t offset, const void *data, size_t len);
enum err spool_read_at(int fd, uint64_t offset, void *data, size_t len);

#define SPOOL_UPLOAD "upload"
#define SPOOL_RESULT "masks"  /* also while it is being written */
#define SPOOL_FRAMES "frames" /* single masks, where the result is a video */
#define SPOOL_INDEX  "index"  /* a struct spool_entry for each frame */

struct spool_entry {
    uint64_t offset, len; /* of a mask in SPOOL_FRAMES, or SPOOL_RESULT */
    double time;          /* the frame's, in seconds */
};

/* ---- jobs_json.c */
const char *job_ending(const struct job *job); /* of the result's name: "zip", ... */

/* ---- jobs_run.c */
void *job_thread(void *job); /* takes a reference */

/* Whether the whole result is a video, and single masks stand in SPOOL_FRAMES. */
static inline bool job_is_video(const struct job *job)
{
    return job->params.format == MASK_OVERLAY || job->params.format == MASK_LABELS;
}

#endif
