/* Jobs from inside; nobody but server/jobs*.c includes this.
 *
 *   jobs.c          the list: from the first byte of an upload to its deletion, and who may run
 *   jobs_spool.c    the folder of a job and the files in it
 *   jobs_store.c    the table of jobs on the disk
 *   jobs_quota.c    how long and how much the spool keeps
 *   jobs_room.c     jobs that wait for room
 *   jobs_writer.c   the thread that makes promises durable before they are given
 *   jobs_recover.c  the jobs of the daemon before
 *   jobs_run.c      the thread of a running job, with those that job_run.h names
 *   jobs_end.c      the end of one that was running, and who is told
 *   jobs_json.c     what clients are told
 *
 * One lock, of the list, guards what is marked so. A job's thread sleeps on its `wake`. */
#ifndef TV3S_SERVER_JOB_H
#define TV3S_SERVER_JOB_H

#include "server/digest.h"
#include "server/jobs.h"
#include "server/jobs_store.h"
#include "server/server.h"
#include "server/webhooks.h"

#include <pthread.h>

/* What the writer does for a job. Part of it, so that it never fails for want of memory. */
struct job_task {
    struct job_task *next;
    struct job *job; /* a reference */
    void (*act)(struct job_task *task);
    job_done done; /* or NULL */
    void *owner;
    bool again; /* it was not possible before, which the owner was told */
};

struct jobs {
    const struct server *server;
    char *spool;
    int spool_lock;            /* a locked file: one daemon a spool */
    atomic_ullong full_logged; /* clock_ns: when spool_tell_full did; 0: never */
    struct store *store;
    struct writer *writer;
    struct webhooks *webhooks;
    atomic_bool stopping; /* the process ends: jobs stop where they are */

    pthread_mutex_t lock;
    pthread_cond_t idle;      /* `threads` fell */
    struct job *first, *last; /* oldest first */
    int count;
    struct job_task *unremoved; /* deletions that could not be written */
    uint64_t bytes;             /* of the files of all */
    uint64_t disk;              /* what the disk has for us, theirs included; 0: not known */
    int threads;                /* running jobs */
    int asleep;                 /* of those, how many wait for bytes of their upload */
    struct job *needy; /* of those that lacked room the one that keeps its masks, or NULL */
    void (*changed)(void *ctx);
    void *changed_ctx;
};

struct job {
    struct jobs *jobs;
    struct job *next, *previous; /* the lock */
    atomic_int refs;             /* the list, the thread, requests */
    char id[SESSION_ID];
    char *folder;
    char model[64];               /* its name, also when it is served no more */
    struct session_params params; /* model NULL then */
    double created;
    uint64_t charged; /* bytes that its owner is charged with: HTTP thread, until the job goes */
    atomic_bool cancelled, deleted; /* deleted: its files go with the last reference */
    char key[256];                  /* Idempotency-Key, "": none */
    char webhook[WEBHOOK_URL];      /* who is told of its end, "": nobody */
    char digest_text[65];           /* of a request with a key, when it is whole */
    struct digest *digest;          /* HTTP thread: while it is not */
    int upload; /* HTTP thread, then the writer for job_complete; -1 after that */
    struct job_task accept, ending, removal;

    /* the lock */
    bool listed;
    bool stored;      /* it has a row in the store */
    bool whole;       /* the body is complete, and durable */
    bool streamable;  /* it can run before that */
    uint64_t arrived; /* bytes of the body */
    uint64_t bytes;   /* of its files, about, while it runs */
    enum job_state state;
    double started, finished;
    uint64_t done; /* frames whose masks can be asked for */
    uint64_t kept; /* frames whose masks outlive the process, and the state after them */
    int64_t total; /* 0: not known */
    int64_t corrupt;
    char warning[WARNING]; /* the last damage that it outlived */
    char decoder[DECODER]; /* what decoded the last frame, "": nothing so far */
    int width, height;
    double fps;
    enum err error; /* why it failed; queued: why it waits */
    char error_text[512];
    char origin[192];      /* what computed the frames that are kept */
    uint64_t retry;        /* clock_ns: it does not run before; UINT64_MAX: it waits for room */
    bool lacked_room;      /* a run ended for want of it */
    bool lacked_disk;      /* ... on the disk, not under spool_max */
    uint64_t reached;      /* bytes of its masks then, the most there were: it wants more */
    uint64_t stuck;        /* clock_ns: since when it waits for room, and keeps its masks */
    bool unkept;           /* it has ended, and its row does not say so; nobody was told */
    bool ending_posted;    /* the writer is to write it */
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

/* Zeroed but for its lists, in state queued; one reference. NULL: no memory. */
struct job *job_new(struct jobs *j);
/* With the lock held: at the list's end; takes a reference. */
void job_list(struct job *job);
double jobs_clock(void); /* wall clock, seconds */
/* With the lock held: whenever a job became ready or a place free. */
void jobs_schedule(struct jobs *j);
/* With the lock held: how the job stands, as the store has it. */
void job_row(const struct job *job, struct job_row *out);

/* ---- jobs_quota.c */
/* With the lock held: what its files take. */
void job_set_bytes(struct job *job, uint64_t bytes);
/* Before so many bytes are written for the job: deletes ended jobs for them. ERR_FULL: there is no
 * room now; ERR_LIMIT: there never will be. Not with the lock held. */
enum err jobs_room(struct job *job, uint64_t more);
enum err jobs_room_for_upload(struct job *job, uint64_t more); /* of its body */
/* ---- jobs_room.c */
/* Why a run ended with ERR_FULL. */
struct shortage {
    bool disk; /* else: spool_max */
    uint64_t reached;
};
/* With the lock held: bytes of its files but the upload. */
uint64_t job_masks(const struct job *job);
/* With the lock held: a run ends for want of room. Whether its masks may stay. */
bool job_lacks_room(struct job *job, const struct shortage *s);
/* With the lock held: it has ended, or goes. */
void job_needs_none(struct job *job);
/* With the lock held: it waits for the end of another that lacked room before it. */
bool job_stands_back(const struct job *job);
/* With the lock held: somebody else runs, or will, and may end, or has and may go later. */
bool job_others_go_on(const struct job *job);
/* Starts what may run, those that have waited for room too. Housekeeping thread. */
void jobs_look_for_room(struct jobs *j);

/* ---- jobs_writer.c */
enum err writer_open(struct jobs *j);
/* Does what is left to do, and ends. NULL writer is allowed. */
void writer_close(struct jobs *j);
/* Any thread; never blocks. `act` runs in the writer's thread, after those posted before. */
void writer_post(struct job *job, struct job_task *task, void (*act)(struct job_task *),
                 job_done done, void *owner);
/* The two things to do: a row for a job whose body is whole; no row for one that goes. */
void writer_accept(struct job_task *task);
void writer_remove(struct job_task *task);
/* With the lock held: one of those that could not be removed. */
void writer_remove_again(struct jobs *j);

/* ---- jobs_recover.c */
/* Lists the jobs of the store, and removes what else is in the spool. Before any thread runs. */
enum err jobs_recover(struct jobs *j);

/* ---- jobs_spool.c: files of a job. Names are relative to its folder */
enum err spool_open(struct jobs *j); /* takes the spool over */
void spool_close(struct jobs *j);
/* Bytes that the disk has free for us; 0: none, or not known. */
uint64_t spool_free(const struct jobs *j);
/* Whether so many bytes can be had, by having them for a moment: quotas of users count. */
bool spool_probe(const struct jobs *j, uint64_t bytes);
/* The disk had no room for something. Says so in the log, once a minute. */
void spool_tell_full(struct jobs *j);
/* Removes folders that are named like a job's and are of no job that is listed. */
void spool_sweep(struct jobs *j);
enum err spool_name(struct job *job);                       /* job->folder */
enum err spool_make(struct job *job);                       /* the folder and the upload's file */
void spool_remove(struct job *job);                         /* all of it */
void spool_clear(struct job *job, const char *const *keep); /* all but these; NULL-terminated */
bool spool_has(const struct job *job, const char *name);
void spool_unlink(const struct job *job, const char *name);
bool spool_id(const char *name); /* a job's folder can be called so */
/* Bytes of its files. */
uint64_t spool_size(const struct job *job);
/* The folder's names are on the disk; the same of the spool's. */
enum err spool_sync(const struct job *job);
enum err spool_sync_root(const struct jobs *j);
void spool_path(const struct job *job, const char *name, char path[4096]);
enum err spool_create(struct job *job, const char *name, int *fd);
enum err spool_append(struct job *job, const char *name, int *fd); /* one that is there */
/* Its first `size` bytes stay. ERR_FORMAT where it has fewer. */
enum err spool_cut(int fd, uint64_t size);
enum err spool_flush(int fd); /* its bytes are on the disk */
enum err spool_read(struct job *job, const char *name, int *fd, uint64_t *size);
enum err spool_write_at(int fd, uint64_t offset, const void *data, size_t len);
enum err spool_read_at(int fd, uint64_t offset, void *data, size_t len);

#define SPOOL_UPLOAD "upload"
#define SPOOL_FRAMES "frames" /* single masks; gone at the end where the result holds them too */
#define SPOOL_INDEX  "index"  /* a struct spool_entry for each frame */

struct spool_entry {
    uint64_t offset, len;               /* of the mask in SPOOL_FRAMES */
    uint64_t result_offset, result_len; /* of the mask in the result; len 0: it is a video */
    double time;                        /* the frame's, in seconds */
};

/* ---- jobs_json.c */
const char *job_state_name(enum job_state state);
/* The delivery `id` that tells of the end that the row has: malloc'd text, or NULL. */
char *job_webhook_body(const struct job_row *row, const char *id);
void job_result_name(const struct job *job, char name[32]); /* "masks.zip", ...: of its file */

/* ---- jobs_end.c */
/* Its run has ended: with no error, or the calling thread's. */
void job_finish(struct job *job, enum err e);
/* Writes the row of a job that has ended, and the delivery to its webhook. `keep`: store_add or
 * store_update. */
enum err job_keep_end(struct job *job, const struct job_row *end,
                      enum err (*keep)(struct store *, const struct job_row *,
                                       const struct store_delivery *));
/* writer_post's: a job's end that could not be written when it came. */
void job_end_again(struct job_task *task);
/* With no run under way: what it has done is forgotten. */
void job_begin_anew(struct job *job);
/* Back to where it waits, to go on from its checkpoint. With ERR_FULL: for want of room. */
void job_put_back(struct job *job, enum err e, const struct shortage *s);

/* ---- jobs_run.c */
void *job_thread(void *job); /* takes a reference */

/* Whether the whole result is a video, and single masks stand in SPOOL_FRAMES. */
static inline bool job_is_video(const struct job *job)
{
    return job->params.format == MASK_OVERLAY || job->params.format == MASK_LABELS;
}

#endif
