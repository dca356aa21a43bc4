#include "server/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 2048, VALUE = 512, VALUES = 4 };

static const char *const level_name[] = {"debug", "info", "warning", "error"};
static atomic_int least = LOG_INFO;

enum err log_level_parse(const char *text, enum log_level *out)
{
    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++) {
        if (strcmp(text, level_name[i]) == 0) {
            *out = (enum log_level)i;
            return ERR_OK;
        }
    }
    return err_set(ERR_ARG, "'%.40s' is no log level: debug, info, warning or error", text);
}

void log_level_set(enum log_level level)
{
    atomic_store(&least, level);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load(&least);
}

void log_event(enum log_level level, const char *event, const char *fields, ...)
{
    char line[LINE];
    struct timespec now;
    struct tm utc;
    if (!log_enabled(level))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &utc);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ level=%s event=%s",
                          (int)(now.tv_nsec / 1000000), level_name[level], event);
    if (*fields) {
        va_list args;
        line[n++] = ' ';
        va_start(args, fields);
        int more = vsnprintf(line + n, sizeof line - n - 1, fields, args);
        va_end(args);
        n += more > 0 ? (size_t)more : 0;
    }
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written; /* there is nobody left to tell */
}

const char *log_text(const char *text)
{
    static _Thread_local char ring[VALUES][VALUE];
    static _Thread_local unsigned next;
    char *out = ring[next++ % VALUES];
    size_t n = 0;
    out[n++] = '"';
    for (; *text && n < VALUE - 4; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            out[n++] = '\\';
        out[n++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    out[n++] = '"';
    out[n] = '\0';
    return out;
}
