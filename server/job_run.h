/* A running job from inside; nobody but these files includes this:
 *
 *   jobs_run.c     the thread: its way through, frames that come back, the end
 *   jobs_input.c   frames from the upload
 *   jobs_output.c  masks to the spool and the result
 *   jobs_resume.c  what outlives the process, and how a job goes on from it
 *
 * All of a struct run belongs to the job's thread, but for what is marked with the list's lock. */
#ifndef TV3S_SERVER_JOB_RUN_H
#define TV3S_SERVER_JOB_RUN_H

#include "server/job.h"

#include "media/sink.h"
#include "sandbox/video.h"
#include "server/sched.h"

enum { WINDOW_MAX = 64 };

/* The hidden state after `frames` frames, on its way from the engine to the disk. */
struct checkpoint {
    struct job *job;
    uint64_t taken; /* clock_ns of the last one */
    uint64_t frames;
    bool asked;
    bool there; /* the lock, as what follows */
    enum err error;
    char error_text[256];
    void *state;
    size_t len;
};

struct run {
    struct job *job;
    struct session *session;
    struct video *video;
    bool front_to_back; /* it reads a file that still grows */
    struct frame frame;
    char decoder[DECODER];          /* that made it */
    struct frame stamp[WINDOW_MAX]; /* number, pts, duration, time of frames on their way */
    uint64_t submitted, back;       /* frames: in, and out or passed over */
    uint64_t decoded;               /* bytes */
    double first_time;
    struct sink *sink;
    char path[4096]; /* the sink's */
    int index, frames;
    uint64_t frames_size;
    enum err broken; /* writing failed while the decoder waited */
    bool no_room;    /* ERR_FULL was of jobs_room */

    uint64_t kept;  /* frames whose masks a run before has left */
    uint64_t first; /* the first frame that the engine gets: those before are in the state */
    bool unusable;  /* what was left does not fit: the job begins anew */
    struct checkpoint checkpoint;
};

/* What a run before has left is to blame for the error, not the disk or memory of now. */
static inline bool run_damaged(enum err e)
{
    return e == ERR_FORMAT || e == ERR_IO || e == ERR_NOT_FOUND || e == ERR_ARG ||
           e == ERR_UNSUPPORTED;
}

/* ---- jobs_run.c */
bool run_cancelled(void *run);
/* With the lock held: the next frame in order is here. */
bool run_has_next(const struct run *r);
/* Writes all that is here; with `wait`, one frame at least. */
enum err run_write_returned(struct run *r, bool wait);

/* ---- jobs_input.c */
enum err run_open_input(struct run *r);
enum err run_next_frame(struct run *r, bool *end);

/* ---- jobs_output.c */
enum err run_open_output(struct run *r); /* the first frame's size is known */
/* A frame that came back. */
enum err run_write_frame(struct run *r, const struct item *item);
/* r->frame, whose mask a run before has left: into the result. */
enum err run_replay(struct run *r);

/* ---- jobs_resume.c */
/* Takes up what the run before has left, or clears it away. After the input is open. */
enum err run_resume(struct run *r);
/* After a frame was submitted: asks for a checkpoint when it is time for one. */
void run_ask_checkpoint(struct run *r);
/* After frames were written: makes a checkpoint that is complete durable. Errors are logged. */
void run_keep_checkpoint(struct run *r);
/* Waits for what was asked for. */
void run_end_checkpoint(struct run *r);
/* All masks and the result are on the disk. */
enum err run_keep_all(struct run *r);

#endif
