/* Header values and paths of strangers. The first byte chooses the parser. */
#include "server/http_headers.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_range(const char *text, uint64_t size)
{
    uint64_t first, length;
    enum range_kind kind = range_parse(text, size, &first, &length);
    if (kind == RANGE_PART && (length == 0 || first >= size || length > size - first))
        abort();
    if (kind == RANGE_WHOLE && (first != 0 || length != size))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint64_t n;
    if (len < 9)
        return 0;
    char *text = malloc(len - 8);
    if (!text)
        return 0;
    memcpy(text, data + 9, len - 9);
    text[len - 9] = 0;
    memcpy(&n, data + 1, sizeof n);
    switch (data[0] % 4) {
    case 0:
        check_range(text, n);
        break;
    case 1:
        accepts_gzip(text);
        break;
    case 2:
        if (request_id_valid(text) && strpbrk(text, " \r\n\"\\"))
            abort();
        break;
    default:
        content_kind(text);
        number_parse(text, &n);
    }
    free(text);
    return 0;
}
