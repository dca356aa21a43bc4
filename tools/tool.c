#include "tools/tool.h"

#include <stdarg.h>
#include <stdio.h>

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
