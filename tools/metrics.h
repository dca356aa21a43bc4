/* Quality of label videos: mIoU, pixel accuracy, per-class IoU, and video consistency VC_n.
 *
 * Independent of the engine and of image files: label maps go in frame by frame, and the memory
 * does not grow with the length of a video. One thread. */
#ifndef TV3S_TOOLS_METRICS_H
#define TV3S_TOOLS_METRICS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { METRICS_MAX_CLASSES = 1024, METRICS_WINDOWS = 2 };

/* The n of VC_n, in the order of the results: 8 and 16 frames. */
extern const int metrics_window[METRICS_WINDOWS];

struct metrics_config {
    int classes; /* K, 1..METRICS_MAX_CLASSES: labels are 0..K-1 */
    int ignore;  /* ground-truth label that counts nowhere, 0..65535 */
    /* Ground truth counts classes from 1: 0 becomes `ignore`, v becomes v - 1, `ignore` itself
     * stays. Predictions count from 0 always. */
    bool reduce_zero_label;
};

/* Fractions 0..1; NaN where there is nothing to divide by. */
struct metrics_result {
    double miou; /* mean of the IoU of the classes that the ground truth has */
    double pixel_accuracy;
    double mvc[METRICS_WINDOWS];         /* mean over videos; see metrics.c */
    double mvc_correct[METRICS_WINDOWS]; /* the same with "consistent" narrowed to "correct" */
    int videos_with_vc[METRICS_WINDOWS]; /* videos that have a VC_n */
    int classes_in_truth;                /* the classes that mIoU averages over */
    uint64_t videos, frames, pixels;     /* pixels: not ignored */
};

struct metrics;

/* ERR_ARG, ERR_NOMEM. */
enum err metrics_open(const struct metrics_config *c, struct metrics **out);
void metrics_close(struct metrics *m); /* NULL is allowed */

/* Starts a video of width x height; ends the one before. ERR_NOMEM. */
enum err metrics_video(struct metrics *m, int width, int height);

/* The next frame of the video, row by row. A predicted label that is neither a class nor `ignore`,
 * or such a ground-truth label, is ERR_FORMAT, and then the frame has not been counted. A
 * prediction of `ignore` (when that is no class) is a miss. */
enum err metrics_frame(struct metrics *m, const uint16_t *predicted, const uint16_t *truth);

/* Ends the last video and computes everything so far. */
void metrics_result(struct metrics *m, struct metrics_result *out);

/* IoU of one class over everything so far; NaN for a class in neither truth nor prediction. */
double metrics_iou(const struct metrics *m, int class);

#endif
