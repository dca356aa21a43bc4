/* The first bytes of a Matroska or AVI file: read within bounds, and a length holds what came
 * before it. */
#include "media/cut.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t says = cut_length(data, size);
    if (says != 0 && says < 10)
        abort();
    return 0;
}
