/* tv3s eval: how good predicted label videos are, as JSON.
 *
 * The ground truth says what there is to compare: a folder of PNG files is one video, a folder of
 * folders of PNG files is many. Each file must be in PREDICTED under the same name; what PREDICTED
 * has beyond that is left alone (Cityscapes labels one frame of thirty). Frames follow each other
 * in the order of the numbers in their names. */
#include "base/nearest.h"
#include "tools/labels.h"
#include "tools/metrics.h"
#include "tools/options.h"
#include "tools/tool.h"

#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>

static const char usage_text[] =
    "usage: tv3s eval PREDICTED GROUND_TRUTH --classes K [--ignore 255] [--reduce-zero-label]\n"
    "\n"
    "Compares two trees VIDEO/FRAME.png of label images (palette indices or gray values), or two\n"
    "such folders of frames, and prints JSON: mIoU over the classes that the ground truth has,\n"
    "pixel accuracy, per-class IoU (null: in neither), mVC8 and mVC16 (null: no video is that\n"
    "long), all as fractions. mVC counts the pixels whose prediction stays the same where the\n"
    "ground truth does (the paper's Eq. 4, as VSPW's tools read it); mVC8_correct and\n"
    "mVC16_correct only those where it is also right.\n"
    "\n"
    "  --classes K           labels are 0..K-1\n"
    "  --ignore LABEL        ground truth that counts nowhere (255)\n"
    "  --reduce-zero-label   the ground truth counts classes from 1: 0 is ignored, others minus\n"
    "                        one. Predictions count from 0 as always\n";

struct eval {
    const char *predicted, *truth; /* folders */
    struct metrics_config config;
    struct metrics *metrics;
    struct label_image guess_image, truth_image;
};

static enum err join(char path[PATH_MAX], const char *folder, const char *video, const char *name)
{
    int n =
        snprintf(path, PATH_MAX, "%s%s%s/%s", folder, video ? "/" : "", video ? video : "", name);
    return n > 0 && n < PATH_MAX ? ERR_OK : err_set(ERR_LIMIT, "a path is too long: %s", name);
}

static enum err eval_frame(struct eval *e, const char *video, const char *name, bool first)
{
    char truth_path[PATH_MAX], guess_path[PATH_MAX];
    struct label_image *truth = &e->truth_image, *guess = &e->guess_image;
    int width = truth->width, height = truth->height; /* of the frame before */
    enum err err = join(truth_path, e->truth, video, name);
    if (!err)
        err = join(guess_path, e->predicted, video, name);
    if (!err)
        err = labels_read(truth_path, truth);
    if (!err && (err = labels_read(guess_path, guess)) == ERR_NOT_FOUND)
        return err_context(err, "%s has no prediction", truth_path);
    if (err)
        return err;
    if (truth->width != guess->width || truth->height != guess->height)
        return err_set(ERR_FORMAT, "%s is %dx%d, but its ground truth is %dx%d", guess_path,
                       guess->width, guess->height, truth->width, truth->height);
    if (!first && (truth->width != width || truth->height != height))
        return err_set(ERR_FORMAT, "%s is %dx%d, but the frame before is %dx%d", truth_path,
                       truth->width, truth->height, width, height);
    if (first)
        err = metrics_video(e->metrics, truth->width, truth->height);
    if (!err)
        err = metrics_frame(e->metrics, guess->label, truth->label);
    return err ? err_context(err, "%s", guess_path) : ERR_OK;
}

/* video: NULL when the frames lie in the folders themselves. */
static enum err eval_video(struct eval *e, const char *video, const struct name_list *frames)
{
    enum err err = ERR_OK;
    for (size_t i = 0; !err && i < frames->count; i++)
        err = eval_frame(e, video, frames->name[i], i == 0);
    return err;
}

static enum err eval_subfolder(struct eval *e, const char *video)
{
    char path[PATH_MAX];
    struct name_list frames = {0};
    enum err err = join(path, e->truth, NULL, video);
    if (!err)
        err = names_read(path, false, &frames);
    if (!err && !frames.count)
        err = err_set(ERR_NOT_FOUND, "%s holds no PNG file", path);
    if (!err)
        err = eval_video(e, video, &frames);
    names_free(&frames);
    return err;
}

static enum err eval_tree(struct eval *e)
{
    struct name_list frames = {0}, videos = {0};
    enum err err = names_read(e->truth, false, &frames);
    if (!err)
        err = names_read(e->truth, true, &videos);
    if (err)
        goto done;
    if (frames.count && videos.count) {
        err = err_set(ERR_ARG, "%s holds both PNG files and folders", e->truth);
        goto done;
    }
    if (!frames.count && !videos.count) {
        err = err_set(ERR_NOT_FOUND, "%s holds neither PNG files nor folders", e->truth);
        goto done;
    }
    if (frames.count)
        err = eval_video(e, NULL, &frames);
    for (size_t i = 0; !err && i < videos.count; i++)
        err = eval_subfolder(e, videos.name[i]);
done:
    names_free(&frames);
    names_free(&videos);
    return err;
}

static void print_number(const char *before, double value, const char *after)
{
    if (isnan(value))
        printf("%snull%s", before, after);
    else
        printf("%s%.9g%s", before, value, after);
}

static void print_result(const struct metrics_result *r, const struct metrics *m, int classes)
{
    print_number("{\n  \"mIoU\": ", r->miou, ",\n");
    print_number("  \"pixel_accuracy\": ", r->pixel_accuracy, ",\n");
    for (int i = 0; i < METRICS_WINDOWS; i++) {
        printf("  \"mVC%d\": ", metrics_window[i]);
        print_number("", r->mvc[i], ",\n");
        printf("  \"mVC%d_correct\": ", metrics_window[i]);
        print_number("", r->mvc_correct[i], ",\n");
        printf("  \"mVC%d_videos\": %d,\n", metrics_window[i], r->videos_with_vc[i]);
    }
    printf("  \"videos\": %" PRIu64 ",\n  \"frames\": %" PRIu64 ",\n  \"pixels\": %" PRIu64 ",\n",
           r->videos, r->frames, r->pixels);
    printf("  \"classes\": %d,\n  \"classes_in_ground_truth\": %d,\n  \"per_class_IoU\": [",
           classes, r->classes_in_truth);
    for (int c = 0; c < classes; c++)
        print_number(c ? ", " : "", metrics_iou(m, c), "");
    printf("]\n}\n");
}

/* Returns TOOL_OK to go on, -1 after --help, or the exit status. */
static int parse(int argc, char **argv, struct eval *e)
{
    enum { CLASSES = 1, IGNORE, REDUCE, HELP };
    static const struct option options[] = {{"classes", required_argument, NULL, CLASSES},
                                            {"ignore", required_argument, NULL, IGNORE},
                                            {"reduce-zero-label", no_argument, NULL, REDUCE},
                                            {"help", no_argument, NULL, HELP},
                                            {0}};
    e->config.ignore = 255;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == CLASSES && !option_int(optarg, 1, METRICS_MAX_CLASSES, &e->config.classes))
            return tool_usage(argv[0], "--classes '%s' is not 1..%d", optarg, METRICS_MAX_CLASSES);
        if (o == IGNORE && !option_int(optarg, 0, UINT16_MAX, &e->config.ignore))
            return tool_usage(argv[0], "--ignore '%s' is not 0..%d", optarg, UINT16_MAX);
        if (o == REDUCE)
            e->config.reduce_zero_label = true;
        if (o == HELP)
            return fputs(usage_text, stdout) < 0 ? TOOL_FAILED : -1;
        if (o == '?') {
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
    }
    if (argc - optind != 2)
        return tool_usage(argv[0], "two folders are needed, PREDICTED and GROUND_TRUTH");
    if (!e->config.classes)
        return tool_usage(argv[0], "--classes is missing");
    e->predicted = argv[optind];
    e->truth = argv[optind + 1];
    return TOOL_OK;
}

int cmd_eval(int argc, char **argv)
{
    struct eval e = {0};
    int status = parse(argc, argv, &e);
    if (status != TOOL_OK)
        return status < 0 ? TOOL_OK : status;
    enum err err = metrics_open(&e.config, &e.metrics);
    if (!err)
        err = eval_tree(&e);
    if (err) {
        status = tool_error(argv[0], "%s", err_text());
    } else {
        struct metrics_result result;
        metrics_result(e.metrics, &result);
        print_result(&result, e.metrics, e.config.classes);
    }
    labels_free(&e.guess_image);
    labels_free(&e.truth_image);
    metrics_close(e.metrics);
    return status;
}
