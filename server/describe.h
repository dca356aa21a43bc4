/* What the wire calls things: the JSON objects of PROTOCOL.md that HTTP and WebSocket share.
 *
 * Each returns a new reference, or NULL when memory ran out. Any thread. */
#ifndef TV3S_SERVER_DESCRIBE_H
#define TV3S_SERVER_DESCRIBE_H

#include "base/err.h"
#include "server/session.h"

#include <jansson.h>

/* Flags of json_dumps: times keep their milliseconds and gain no others. */
#define DESCRIBE_DUMP (JSON_COMPACT | JSON_REAL_PRECISION(14))

/* "stream", "clip", "frame". */
const char *mode_name(enum stream_mode mode);

/* A problem object (RFC 9457). `detail` NULL or "": none; `request_id` NULL: none. Text that is
 * not UTF-8 is repaired. */
json_t *describe_problem(enum err e, const char *detail, const char *request_id);

/* A stream. Not with the table's lock held. */
json_t *describe_stream(struct session *s);

/* [{"id":0,"name":"road","color":"#rrggbb"}, ...] */
json_t *describe_classes(const struct served_model *m);

/* Wall clock in seconds, as `created` and the like have it: to the millisecond. */
json_t *describe_time(double seconds);

/* A string of any bytes: what is not UTF-8 becomes '?'. */
json_t *describe_text(const char *text);

#endif
