/* The pickle reader, and the two places that walk what it built. */
#include "engine/arch_parts.h"
#include "engine/import/labels.h"
#include "engine/import/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every byte of text and every tensor, to a fixed depth: values may contain themselves. */
static uint64_t walk(const struct pk_value *v, int depth)
{
    uint64_t sum = (uint64_t)v->type;
    switch (v->type) {
    case PK_STRING:
    case PK_BYTES:
        for (size_t i = 0; i < v->text.len; i++)
            sum += (uint8_t)v->text.at[i];
        break;
    case PK_TUPLE:
    case PK_LIST:
    case PK_DICT:
        for (size_t i = 0; depth > 0 && i < v->items.count && i < 1000; i++)
            sum += walk(v->items.at[i], depth - 1);
        break;
    case PK_TENSOR:
        for (int i = 0; i < v->tensor->ndim; i++)
            sum += (uint64_t)v->tensor->shape[i];
        sum += strlen(v->tensor->storage->key);
        break;
    default:
        break;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arch arch = {.classes = 3};
    static volatile uint64_t sink; /* keeps the walk from being optimised away */
    struct pickle *p;
    const char *note = NULL;
    if (pickle_open(data, size, &p))
        return 0;
    sink = walk(pickle_root(p), 4);
    (void)sink;
    labels_from_pickle(pickle_root(p), &arch, &note);
    pickle_close(p);
    return 0;
}
