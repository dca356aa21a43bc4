/* A video from inside: video.c, video_device.c. */
#ifndef TV3S_SANDBOX_VIDEO_PARTS_H
#define TV3S_SANDBOX_VIDEO_PARTS_H

#include "sandbox/link.h"
#include "sandbox/video.h"

enum { VIDEO_SLOTS = 4 }; /* frames that a child is ahead */

struct video {
    struct decoder *here; /* without a sandbox; then that is all */
    struct sandbox *sandbox;
    struct decode_options o;
    struct sandbox_wait wait;
    struct decode_info info;
    int64_t delivered, corrupt, last_pts;
    bool ended, nv12;
    char who[160];

    /* of the child that there is */
    struct link *link;
    int64_t taken, heard_pts; /* frames of it, and the last one's time */
    int64_t known;            /* bytes that the file has, as it was told last */
    int reports;
    bool on_host; /* the last frame's pixels came there */
    bool nvdec;   /* made the last frame */

    /* video_device.c */
    struct video_device device;
    bool on_device;      /* the child is one that may decode there */
    int file;            /* ours, for another child; -1: none */
    int64_t made_there;  /* frames */
    char why[WIRE_TEXT]; /* the last frame was not, or "" */
    struct device_pool *pool;
    bool asked;                                   /* for it */
    struct device_picture *promised[VIDEO_SLOTS]; /* to frames that may be made: by taken % slots */
    struct device_picture *shown;                 /* by the last frame, or NULL */
};

/* ---- video.c */
/* A child, on the device or not, and what it says of the video. */
enum err video_open_child(struct video *v, int file, int device);

/* ---- video_device.c */
/* video_open_child there, or where that fails without it. */
enum err video_open_there(struct video *v, int file, const struct video_device *device);
/* TELL_ROOM. */
enum err video_answer_room(struct video *v, const struct wire_reply *r);
/* A frame's pixels, from where the child says that they are; f NULL: nobody wants them. */
enum err video_take_pixels(struct video *v, const struct wire_reply *r, struct frame *f);
/* For ASK_TAKEN of that frame: the slot for another, or -1. */
int video_promise(struct video *v);
/* The last frame's picture is used no more, unless somebody has it. */
void video_forget_shown(struct video *v);
/* Whether the error is the device's, so that another child may know better. */
bool video_failed_there(const struct video *v, enum err e);
/* The calling thread's error is why: an ordinary child takes over, behind the last frame given. */
enum err video_leave_device(struct video *v);
/* At the end: what there is goes, and `went` is told. */
void video_end_device(struct video *v);

#endif
