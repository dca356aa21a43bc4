#include "tools/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void report(const char *name, const char *fmt, va_list args, const char *tail)
{
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ') /* one line, whatever file names hold */
            *p = ' ';
    fprintf(stderr, "%s: %s%s\n", name, text, tail);
}

int tool_error(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    report(name, fmt, args, "");
    va_end(args);
    return TOOL_FAILED;
}

int tool_usage(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    report(name, fmt, args, " (--help shows the usage)");
    va_end(args);
    return TOOL_USAGE;
}

int tool_option(const char *command, const char *option, const char *value)
{
    static const char *const takes[][2] = {
        {"mode", "stream, clip or frame"},
        {"format", "png, raw, rle, coco_rle, overlay or labels"},
        {"dtype", "f32, bf16 or tf32"},
        {"device", "cpu, cuda or cuda:N"},
        {"decoder", "auto or cpu"},
        {"resize", "vspw, cityscapes, native or WxH"},
        {"size", "WxH"},
        {"batch", "a number, 1 to 64"},
        {"threads", "a number, 0 to 1024"},
    };
    const char *what = "a number in its range";
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++)
        if (strcmp(takes[i][0], option) == 0)
            what = takes[i][1];
    return tool_usage(command, "--%s cannot be '%s', but %s", option, value, what);
}
