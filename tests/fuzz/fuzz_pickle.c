/* The pickle reader, and the two places that walk what it built. */
#include "engine/arch_parts.h"
#include "engine/import/labels.h"
#include "engine/import/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every byte of text and every tensor. Values may contain themselves and each other, so that a few
 * bytes can name more paths than there is time for: `budget` counts the values and the bytes read,
 * and the walk ends where it is spent. */
static uint64_t walk(const struct pk_value *v, int depth, size_t *budget)
{
    uint64_t sum = (uint64_t)v->type;
    if (depth == 0 || *budget == 0)
        return sum;
    --*budget;
    switch (v->type) {
    case PK_STRING:
    case PK_BYTES:
        for (size_t i = 0; *budget > 0 && i < v->text.len; i++, --*budget)
            sum += (uint8_t)v->text.at[i];
        break;
    case PK_TUPLE:
    case PK_LIST:
    case PK_DICT:
        for (size_t i = 0; *budget > 0 && i < v->items.count; i++)
            sum += walk(v->items.at[i], depth - 1, budget);
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
    size_t budget = 100000;
    if (pickle_open(data, size, &p))
        return 0;
    sink = walk(pickle_root(p), 50, &budget);
    (void)sink;
    labels_from_pickle(pickle_root(p), &arch, &note);
    pickle_close(p);
    return 0;
}
