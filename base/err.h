/* Errors of the whole program: one table, one enum, one message per thread.
 *
 * A function that can fail returns `enum err` and hands results through out-parameters. Where the
 * cause is known it returns err_set(CODE, "what, and where"), which keeps the text for this thread;
 * callers pass the code up unchanged and whoever meets the user prints err_text() once. */
#ifndef TV3S_BASE_ERR_H
#define TV3S_BASE_ERR_H

/* code, HTTP status, stable type (a problem+json `type` suffix), title */
#define ERR_TABLE(X)                                                                               \
    X(ERR_OK, 200, "ok", "no error")                                                               \
    X(ERR_ARG, 400, "bad-argument", "an argument is missing or out of range")                      \
    X(ERR_FORMAT, 422, "bad-format", "the input is malformed")                                     \
    X(ERR_KEY, 401, "unauthorized", "a key is wanted")                                             \
    X(ERR_ROLE, 403, "forbidden", "the key may not do that")                                       \
    X(ERR_ORIGIN, 403, "origin", "pages of this origin may not call")                              \
    X(ERR_QUOTA, 429, "key-limit", "a limit of the key is reached")                                \
    X(ERR_ADDRESS, 429, "address-limit", "this address has too many connections")                  \
    X(ERR_UNSUPPORTED, 415, "unsupported", "the input is well formed but not supported")           \
    X(ERR_LIMIT, 413, "over-limit", "the input exceeds a limit")                                   \
    X(ERR_NOT_FOUND, 404, "not-found", "there is no such thing")                                   \
    X(ERR_EXISTS, 409, "conflict", "it exists already or is in use")                               \
    X(ERR_ELSEWHERE, 409, "elsewhere", "another replica has it")                                   \
    X(ERR_NO_RESULT, 409, "no-result", "there is no result, or none yet")                          \
    X(ERR_BUSY, 503, "overloaded", "no capacity is free at present")                               \
    X(ERR_FULL, 503, "no-space", "the disk or its share is full")                                  \
    X(ERR_IO, 500, "io", "reading or writing failed")                                              \
    X(ERR_NOMEM, 503, "out-of-memory", "memory ran out")                                           \
    X(ERR_DEVICE, 500, "device", "the compute device failed")                                      \
    X(ERR_DECODER, 500, "decoder-died", "the process that decodes the input died")                 \
    X(ERR_CANCELLED, 409, "cancelled", "the work was cancelled")                                   \
    X(ERR_INTERNAL, 500, "internal", "an internal invariant broke")

enum err {
#define ERR_ENUM(code, http, type, title) code,
    ERR_TABLE(ERR_ENUM)
#undef ERR_ENUM
};

/* Stores the message (truncated to 511 bytes) for the calling thread and returns `code`. */
enum err err_set(enum err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prepends "context: " to the calling thread's message and returns `code`. */
enum err err_context(enum err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The calling thread's last message; "" before the first. Valid until its next err_set. */
const char *err_text(void);

const char *err_type(enum err code);
enum err err_of_type(const char *type); /* ERR_INTERNAL: there is none of the type */
const char *err_title(enum err code);
int err_http(enum err code);

#endif
