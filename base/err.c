#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ERR_MESSAGE = 512 };

static _Thread_local char message[ERR_MESSAGE];

/* Messages quote file names and tensor names, that is, bytes from outside: whatever is in them, a
 * message stays one line of text and moves no cursor. Bytes >= 0x80 are UTF-8 and pass. */
static void keep_one_line(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

enum err err_set(enum err code, const char *fmt, ...)
{
    char text[ERR_MESSAGE]; /* the arguments may be err_text() itself */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    keep_one_line(text);
    memcpy(message, text, sizeof message);
    return code;
}

enum err err_context(enum err code, const char *fmt, ...)
{
    char text[ERR_MESSAGE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    keep_one_line(text);

    char all[2 * ERR_MESSAGE + 2];
    snprintf(all, sizeof all, "%s: %s", text, message);
    all[ERR_MESSAGE - 1] = '\0';
    memcpy(message, all, sizeof message);
    return code;
}

const char *err_text(void)
{
    return message;
}

const char *err_type(enum err code)
{
    switch (code) {
#define ERR_CASE(code, http, type, title)                                                          \
    case code:                                                                                     \
        return type;
        ERR_TABLE(ERR_CASE)
#undef ERR_CASE
    }
    return "internal";
}

enum err err_of_type(const char *text)
{
#define ERR_IF(code, http, type, title)                                                            \
    if (strcmp(text, type) == 0)                                                                   \
        return code;
    ERR_TABLE(ERR_IF)
#undef ERR_IF
    return ERR_INTERNAL;
}

const char *err_title(enum err code)
{
    switch (code) {
#define ERR_CASE(code, http, type, title)                                                          \
    case code:                                                                                     \
        return title;
        ERR_TABLE(ERR_CASE)
#undef ERR_CASE
    }
    return "an internal invariant broke";
}

int err_http(enum err code)
{
    switch (code) {
#define ERR_CASE(code, http, type, title)                                                          \
    case code:                                                                                     \
        return http;
        ERR_TABLE(ERR_CASE)
#undef ERR_CASE
    }
    return 500;
}
