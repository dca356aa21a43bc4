/* tv3s info: what a model file is, and what a frame costs with it, as JSON. */
#include "base/nearest.h"
#include "engine/arch_parts.h"
#include "engine/engine.h"
#include "kernels/cpu/ops.h"
#include "tools/tool.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: tv3s info MODEL [--size WxH]\n"
    "\n"
    "Prints the architecture, classes, parameters, and the work and the hidden state of one "
    "stream\n"
    "as JSON. --size is the size of the frames that the latter are for; default: that of the\n"
    "model's data set.\n";

struct size {
    int width, height;
};

static struct size reference_size(const struct resize_spec *r)
{
    switch (r->kind) {
    case RESIZE_VSPW:
        return (struct size){853, 480};
    case RESIZE_CITYSCAPES:
        return (struct size){2048, 1024};
    case RESIZE_FIXED:
        return (struct size){r->width, r->height};
    default:
        return (struct size){640, 480};
    }
}

/* "F32", or "F16 F32" for a file of both. */
static json_t *storage_types(const struct model *m)
{
    char text[64] = "";
    for (int t = 0; t < DT_COUNT; t++)
        for (size_t i = 0; i < st_count(m->file); i++)
            if ((int)st_at(m->file, i)->dtype == t) {
                size_t used = strlen(text);
                snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "",
                         dtype_name((enum dtype)t));
                break;
            }
    return json_string(text);
}

static json_t *cpu_object(void)
{
    const struct cpu_ops *ops = cpu_ops_get(NULL);
    json_t *dtypes = json_array();
    if (engine_dtype_supported(DEVICE_CPU, DT_F32))
        json_array_append_new(dtypes, json_string("f32"));
    if (engine_dtype_supported(DEVICE_CPU, DT_BF16))
        json_array_append_new(dtypes, json_string("bf16"));
    return json_pack("{s:s, s:o}", "isa", ops ? ops->name : "none", "native_dtypes", dtypes);
}

static json_t *cuda_object(void)
{
    return engine_dtype_supported(DEVICE_CUDA, DT_F32)
               ? json_pack("{s:[sss]}", "native_dtypes", "f32", "tf32", "bf16")
               : json_null();
}

/* What frames of this size mean; adds the two headline figures to `o` itself. */
static enum err add_geometry(json_t *o, const struct arch *a, struct size s)
{
    struct geometry g;
    enum err err = engine_geometry(a, s.width, s.height, NULL, &g);
    if (err)
        return err;
    json_object_set_new(o, "state_bytes_per_stream", json_integer((json_int_t)g.state_bytes));
    json_object_set_new(o, "gflop_per_frame", json_real(g.gflop));
    json_object_set_new(o, "frame",
                        json_pack("{s:[ii], s:[ii], s:[ii], s:[ii], s:i}", "size", g.width,
                                  g.height, "network_input", g.net_width, g.net_height, "stride4",
                                  g.c1_width, g.c1_height, "grid", g.grid_width, g.grid_height,
                                  "windows", g.windows));
    return ERR_OK;
}

static enum err describe(const char *path, const struct model *m, struct size size, json_t **out)
{
    const struct arch *a = &m->arch;
    struct stat info;
    int length;
    const char *stem = model_stem(path, &length); /* as the daemon calls it */
    json_t *o = json_object();
    *out = o;
    json_object_set_new(o, "model", json_stringn(stem, (size_t)length));
    json_object_set_new(o, "architecture", arch_json(a, "arch"));
    json_object_set_new(o, "parameters", json_integer((json_int_t)model_parameters(m)));
    json_object_set_new(o, "dtype", storage_types(m));
    if (stat(path, &info) == 0)
        json_object_set_new(o, "file_bytes", json_integer((json_int_t)info.st_size));
    json_object_set(o, "resize", json_object_get(json_object_get(o, "architecture"), "resize"));
    enum err err = add_geometry(o, a, size.width ? size : reference_size(&a->resize));
    if (err)
        return err;
    json_object_set_new(o, "cpu", cpu_object());
    json_object_set_new(o, "cuda", cuda_object());
    json_object_set_new(o, "classes", json_integer(a->classes));
    json_object_set_new(o, "class_names", arch_json(a, "classes"));
    json_object_set_new(o, "palette", arch_json(a, "palette"));
    return ERR_OK;
}

static int info(const char *name, const char *path, struct size size)
{
    struct model *m = NULL;
    json_t *o = NULL;
    enum err err = model_open(path, &m);
    if (!err)
        err = describe(path, m, size, &o);
    int status = err ? tool_error(name, "%s", err_text()) : TOOL_OK;
    if (!err && (json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) < 0 ||
                 putchar('\n') == EOF))
        status = tool_error(name, "the description cannot be written");
    json_decref(o);
    model_close(m);
    return status;
}

int cmd_info(int argc, char **argv)
{
    static const struct option options[] = {
        {"size", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct resize_spec spec = {0};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            return TOOL_OK;
        }
        if (c != 's') { /* getopt_long has printed its line */
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
        if (resize_parse(optarg, &spec) || spec.kind != RESIZE_FIXED)
            return tool_usage(argv[0], "--size is WxH, each side 32 to 16384, not '%s'", optarg);
    }
    if (optind + 1 != argc)
        return tool_usage(argv[0], optind == argc ? "which model?" : "one model at a time");
    return info(argv[0], argv[optind], (struct size){spec.width, spec.height});
}
