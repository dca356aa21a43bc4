/* Header values as bytes from outside become facts. Pure functions. */
#ifndef TV3S_SERVER_HTTP_HEADERS_H
#define TV3S_SERVER_HTTP_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is wrong with a request's target as it came, or NULL: an encoded zero byte would cut what
 * follows off, and an encoded slash in the path would make two parts of one. */
const char *target_fault(const char *target);

enum range_kind {
    RANGE_WHOLE, /* no range, several, another unit, or malformed: the whole is the answer */
    RANGE_PART,
    RANGE_OUTSIDE /* 416 */
};

/* `text` is the value of Range, or NULL; `size` what there is. *first and *length are of the part
 * (or of the whole). */
enum range_kind range_parse(const char *text, uint64_t size, uint64_t *first, uint64_t *length);

/* Whether Accept-Encoding (or NULL) takes gzip, and does not prefer the answer as it is. */
bool accepts_gzip(const char *text);

/* 1 to 64 of A-Z a-z 0-9 . _ - */
bool request_id_valid(const char *text);

/* Idempotency-Key: 1 to 255 visible ASCII characters. */
bool key_valid(const char *text);

enum content_kind {
    CONTENT_RAW,    /* the body is the thing itself */
    CONTENT_FORM,   /* multipart/form-data */
    CONTENT_REFUSED /* another multipart, or application/x-www-form-urlencoded */
};

/* `text` is the value of Content-Type, or NULL. */
enum content_kind content_kind(const char *text);

/* Digits only, in range; "" is not a number. */
bool number_parse(const char *text, uint64_t *out);

#endif
