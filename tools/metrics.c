/* mIoU is the usual one: a confusion matrix over all pixels of all videos whose ground truth is not
 * `ignore`, IoU_c = hits / (truth + predicted - hits), averaged over the classes that the ground
 * truth has.
 *
 * Video consistency is Eq. 4 of the paper. For a video of C frames with ground truths M and
 * predictions O,
 *
 *     VC_n = 1/(C-n+1)  sum_{i=1..C-n+1}  |common(M_i..M_i+n-1) and common(O_i..O_i+n-1)|
 *                                         -----------------------------------------------
 *                                                   |common(M_i..M_i+n-1)|
 *
 * where common() is the set of pixels whose label is the same in all n frames, and mVC_n is the
 * mean over videos. As in the tools of VSPW, common(O) asks that the prediction does not change,
 * not that it is right: published mVC_n exceed the pixel accuracy of their models. The narrower
 * figure, prediction = ground truth in all n frames, is kept beside it as mvc_correct. What Eq. 4
 * leaves open: ignored pixels are in no common area; a window whose common area is empty is left
 * out of the mean; a video without any window (C < n, or all left out) has no VC_n. (The script of
 * VSPW differs in three small ways: it keeps ignored pixels, slides over C - n windows, and
 * averages over the windows of all videos at once.)
 *
 * Nothing of a video is kept but its last frame: three run lengths per pixel say for how many
 * frames, up to the longest n, the ground truth has not changed, the prediction has not changed,
 * and the prediction has been right. A pixel is in common(M) of the n frames that end now exactly
 * if its first run is >= n. O(pixels) per frame, 7 bytes per pixel. */
#include "tools/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const int metrics_window[METRICS_WINDOWS] = {8, 16};
enum { RUN_MAX = 16 }; /* the longest window: runs need no more */

struct pixel_runs {
    uint8_t truth, guess, right; /* frames up to now, saturating at RUN_MAX */
};

/* Sums over the windows of one video. */
struct video_vc {
    double sum, sum_correct;
    uint64_t windows; /* with a common area */
};

struct metrics {
    struct metrics_config config;
    uint64_t *confusion; /* [K][K + 1]: truth, predicted; column K: nothing predicted */
    uint64_t videos, frames;
    double vc_sum[METRICS_WINDOWS], vc_sum_correct[METRICS_WINDOWS];
    int vc_videos[METRICS_WINDOWS];

    size_t pixels; /* of the video under way; 0: none */
    size_t room;   /* pixels that the three buffers hold */
    uint64_t video_frames;
    struct video_vc vc[METRICS_WINDOWS];
    struct pixel_runs *runs;
    uint16_t *last_truth, *last_guess;
};

enum err metrics_open(const struct metrics_config *c, struct metrics **out)
{
    *out = NULL;
    if (c->classes < 1 || c->classes > METRICS_MAX_CLASSES)
        return err_set(ERR_ARG, "the number of classes is %d, not 1..%d", c->classes,
                       METRICS_MAX_CLASSES);
    if (c->ignore < 0 || c->ignore > UINT16_MAX)
        return err_set(ERR_ARG, "the label to ignore is %d, not 0..%d", c->ignore, UINT16_MAX);
    struct metrics *m = calloc(1, sizeof *m);
    size_t k = (size_t)c->classes;
    if (m)
        m->confusion = calloc(k * (k + 1), sizeof *m->confusion);
    if (!m || !m->confusion) {
        metrics_close(m);
        return err_set(ERR_NOMEM, "no memory for a confusion matrix");
    }
    m->config = *c;
    *out = m;
    return ERR_OK;
}

void metrics_close(struct metrics *m)
{
    if (!m)
        return;
    free(m->confusion);
    free(m->runs);
    free(m->last_truth);
    free(m->last_guess);
    free(m);
}

/* Folds the video under way into the means. */
static void end_video(struct metrics *m)
{
    for (int i = 0; i < METRICS_WINDOWS; i++) {
        if (!m->vc[i].windows)
            continue;
        m->vc_sum[i] += m->vc[i].sum / (double)m->vc[i].windows;
        m->vc_sum_correct[i] += m->vc[i].sum_correct / (double)m->vc[i].windows;
        m->vc_videos[i]++;
    }
    m->videos += m->video_frames > 0;
    m->pixels = 0;
    m->video_frames = 0;
    memset(m->vc, 0, sizeof m->vc);
}

static enum err reserve(struct metrics *m, size_t pixels)
{
    if (pixels <= m->room)
        return ERR_OK;
    free(m->runs);
    free(m->last_truth);
    free(m->last_guess);
    m->runs = malloc(pixels * sizeof *m->runs);
    m->last_truth = malloc(pixels * sizeof *m->last_truth);
    m->last_guess = malloc(pixels * sizeof *m->last_guess);
    m->room = m->runs && m->last_truth && m->last_guess ? pixels : 0;
    return m->room ? ERR_OK : err_set(ERR_NOMEM, "no memory for a video of %zu pixels", pixels);
}

enum err metrics_video(struct metrics *m, int width, int height)
{
    end_video(m);
    if (width < 1 || height < 1)
        return err_set(ERR_ARG, "a video of %dx%d pixels", width, height);
    size_t pixels = (size_t)width * (size_t)height;
    enum err err = reserve(m, pixels);
    if (err)
        return err;
    m->pixels = pixels;
    memset(m->runs, 0, pixels * sizeof *m->runs);
    return ERR_OK;
}

/* The ground-truth class of a stored label, or `ignore`. */
static inline uint16_t truth_class(const struct metrics_config *c, uint16_t label)
{
    if (!c->reduce_zero_label || label == c->ignore)
        return label;
    return label ? (uint16_t)(label - 1) : (uint16_t)c->ignore;
}

static enum err check_labels(const struct metrics *m, const uint16_t *predicted,
                             const uint16_t *truth)
{
    const struct metrics_config *c = &m->config;
    for (size_t i = 0; i < m->pixels; i++) {
        uint16_t t = truth_class(c, truth[i]);
        if (t >= c->classes && t != c->ignore)
            return err_set(ERR_FORMAT,
                           "the ground truth has label %d, which is no class below %d "
                           "and not the ignored label %d",
                           truth[i], c->classes, c->ignore);
        if (predicted[i] >= c->classes && predicted[i] != c->ignore)
            return err_set(ERR_FORMAT,
                           "the prediction has label %d, which is no class below %d "
                           "and not the ignored label %d",
                           predicted[i], c->classes, c->ignore);
    }
    return ERR_OK;
}

static inline uint8_t run_next(uint8_t run, bool goes_on)
{
    return goes_on ? (uint8_t)(run + (run < RUN_MAX)) : 0;
}

/* The confusion matrix and the run lengths after this frame. */
static void count_pixels(struct metrics *m, const uint16_t *predicted, const uint16_t *truth)
{
    const struct metrics_config *c = &m->config;
    size_t k = (size_t)c->classes;
    bool first = m->video_frames == 0;
    for (size_t i = 0; i < m->pixels; i++) {
        uint16_t t = truth_class(c, truth[i]), g = predicted[i];
        struct pixel_runs *r = &m->runs[i];
        bool counts = t != c->ignore;
        if (counts)
            m->confusion[t * (k + 1) + (g < k ? g : k)]++;
        /* A run that begins anew is 1 frame long; an ignored pixel is in no common area. */
        r->truth = counts ? run_next(first || t != m->last_truth[i] ? 0 : r->truth, true) : 0;
        r->guess = run_next(first || g != m->last_guess[i] ? 0 : r->guess, true);
        r->right = run_next(r->right, g == t);
        m->last_truth[i] = t;
        m->last_guess[i] = g;
    }
}

/* The window of n frames that ends with this one. */
static void count_window(struct metrics *m, int n, struct video_vc *vc)
{
    uint64_t common = 0, consistent = 0, correct = 0;
    for (size_t i = 0; i < m->pixels; i++) {
        const struct pixel_runs *r = &m->runs[i];
        bool still = r->truth >= n;
        common += still;
        consistent += still & (r->guess >= n);
        correct += still & (r->right >= n);
    }
    if (!common)
        return;
    vc->sum += (double)consistent / (double)common;
    vc->sum_correct += (double)correct / (double)common;
    vc->windows++;
}

enum err metrics_frame(struct metrics *m, const uint16_t *predicted, const uint16_t *truth)
{
    if (!m->pixels)
        return err_set(ERR_ARG, "a frame outside a video");
    enum err err = check_labels(m, predicted, truth);
    if (err)
        return err;
    count_pixels(m, predicted, truth);
    m->video_frames++;
    m->frames++;
    for (int i = 0; i < METRICS_WINDOWS; i++)
        if (m->video_frames >= (uint64_t)metrics_window[i])
            count_window(m, metrics_window[i], &m->vc[i]);
    return ERR_OK;
}

/* Pixels of a class in the ground truth, among the predictions for counted pixels, and in both. */
static void class_counts(const struct metrics *m, int class, uint64_t *truth, uint64_t *guess,
                         uint64_t *both)
{
    size_t k = (size_t)m->config.classes, c = (size_t) class;
    *truth = *guess = 0;
    for (size_t i = 0; i <= k; i++)
        *truth += m->confusion[c * (k + 1) + i];
    for (size_t i = 0; i < k; i++)
        *guess += m->confusion[i * (k + 1) + c];
    *both = m->confusion[c * (k + 1) + c];
}

double metrics_iou(const struct metrics *m, int class)
{
    uint64_t truth, guess, both;
    class_counts(m, class, &truth, &guess, &both);
    uint64_t either = truth + guess - both;
    return either ? (double)both / (double)either : NAN;
}

void metrics_result(struct metrics *m, struct metrics_result *out)
{
    end_video(m);
    *out = (struct metrics_result){.videos = m->videos, .frames = m->frames};
    uint64_t hits = 0;
    double sum = 0;
    for (int c = 0; c < m->config.classes; c++) {
        uint64_t truth, guess, both;
        class_counts(m, c, &truth, &guess, &both);
        out->pixels += truth;
        hits += both;
        if (truth) {
            sum += metrics_iou(m, c);
            out->classes_in_truth++;
        }
    }
    out->miou = out->classes_in_truth ? sum / out->classes_in_truth : NAN;
    out->pixel_accuracy = out->pixels ? (double)hits / (double)out->pixels : NAN;
    for (int i = 0; i < METRICS_WINDOWS; i++) {
        int n = out->videos_with_vc[i] = m->vc_videos[i];
        out->mvc[i] = n ? m->vc_sum[i] / n : NAN;
        out->mvc_correct[i] = n ? m->vc_sum_correct[i] / n : NAN;
    }
}
