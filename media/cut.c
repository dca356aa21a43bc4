#include "media/cut.h"

#include <stdbool.h>
#include <string.h>

enum { ID_EBML = 0x1a45dfa3, ID_VOID = 0xec, ID_SEGMENT = 0x18538067 };

struct cursor {
    const uint8_t *at, *end;
};

/* EBML's number: the zeros in front of its first one say how many bytes follow. -1: there is none,
 * or all its digits are ones, which is "not known". */
static int64_t number(struct cursor *c, bool with_mark)
{
    if (c->at == c->end || !*c->at)
        return -1;
    int more = __builtin_clz(*c->at) - 24, bits = 7 * (more + 1);
    int64_t value = with_mark ? *c->at : *c->at & (0x7f >> more);
    if (c->end - ++c->at < more)
        return -1;
    while (more-- > 0)
        value = value << 8 | *c->at++;
    return !with_mark && value == (INT64_C(1) << bits) - 1 ? -1 : value;
}

static int64_t matroska(const uint8_t *head, size_t len)
{
    struct cursor c = {head, head + len};
    for (bool first = true;; first = false) {
        int64_t id = number(&c, true), size = number(&c, false);
        if (size < 0 || (first ? id != ID_EBML : id != ID_VOID && id != ID_SEGMENT))
            return 0;
        if (id == ID_SEGMENT)
            return (c.at - head) + size;
        if (size > c.end - c.at)
            return 0;
        c.at += size;
    }
}

/* "RIFF", how many bytes follow, "AVI ". One that was written to a pipe says 0 or the most. */
static int64_t avi(const uint8_t *head, size_t len)
{
    if (len < 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "AVI ", 4) != 0)
        return 0;
    uint32_t size = (uint32_t)head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 |
                    (uint32_t)head[7] << 24;
    return size < 4 || size == UINT32_MAX ? 0 : INT64_C(8) + size;
}

int64_t cut_length(const uint8_t *head, size_t len)
{
    int64_t length = matroska(head, len);
    return length ? length : avi(head, len);
}
