/* Structured log on stderr: one line an event, logfmt.
 *
 *     ts=2026-01-31T12:00:00.123Z level=info event=stream_opened stream=cam-7 request=7f3a
 *
 * `fields` is a printf format that writes "key=value key=value". Text that may hold spaces or
 * quotes goes through log_text. Keys with one meaning everywhere: stream, job, request, model,
 * error. A line is written with one write(2), so lines of threads do not mix. Any thread. */
#ifndef TV3S_SERVER_LOG_H
#define TV3S_SERVER_LOG_H

#include "base/err.h"

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* "debug", "info", "warning", "error"; ERR_ARG. */
enum err log_level_parse(const char *text, enum log_level *out);
void log_level_set(enum log_level level); /* at start: info */
bool log_enabled(enum log_level level);

/* `fields` "" for none. Lines beyond 2 KiB are cut. */
void log_event(enum log_level level, const char *event, const char *fields, ...)
    __attribute__((format(printf, 3, 4)));

/* The text as a logfmt value, quoted and escaped where it must be, cut at 500 bytes. Valid until
 * the calling thread's fourth call from now: several may stand in one log_event. */
const char *log_text(const char *text);

#endif
