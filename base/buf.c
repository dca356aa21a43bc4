#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err buf_reserve(struct buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return ERR_OK;
    if (more > SIZE_MAX / 4 - b->len)
        return err_set(ERR_NOMEM, "a buffer of %zu bytes more", more);
    size_t cap = b->cap ? b->cap * 2 : 256;
    if (cap < b->len + more)
        cap = b->len + more;
    uint8_t *data = realloc(b->data, cap);
    if (!data)
        return err_set(ERR_NOMEM, "no memory for a buffer of %zu bytes", cap);
    b->data = data;
    b->cap = cap;
    return ERR_OK;
}

enum err buf_append(struct buf *b, const void *data, size_t len)
{
    if (len > SIZE_MAX / 4)
        return err_set(ERR_NOMEM, "a buffer of %zu bytes more", len);
    enum err e = buf_reserve(b, len + 1);
    if (e)
        return e;
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = 0;
    return ERR_OK;
}

enum err buf_text(struct buf *b, const char *text)
{
    return buf_append(b, text, strlen(text));
}

enum err buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    char text[512];
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < (int)sizeof text)
        return buf_append(b, text, (size_t)n);
    enum err e = buf_reserve(b, (size_t)n + 1);
    if (e)
        return e;
    va_start(args, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return ERR_OK;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
