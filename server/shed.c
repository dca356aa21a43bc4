#include "server/shed.h"

#include <stdlib.h>

/* By owner; of each the idle ones first, and of these the oldest. */
static int in_order(const void *a, const void *b)
{
    const struct held *x = a, *y = b;
    if (x->owner != y->owner)
        return (uintptr_t)x->owner < (uintptr_t)y->owner ? -1 : 1;
    if (x->idle != y->idle)
        return x->idle ? -1 : 1;
    return x->touched < y->touched ? -1 : x->touched > y->touched;
}

void shed_sort(struct held *held, size_t count)
{
    if (count > 0)
        qsort(held, count, sizeof *held, in_order);
    for (size_t first = 0, i; first < count; first = i) {
        held[first].all = 0;
        for (i = first; i < count && held[i].owner == held[first].owner; i++)
            held[first].all += held[i].bytes;
        held[first].next = first;
        held[first].end = i;
    }
}

/* Of one owner's, NULL: none. */
static struct held *oldest(struct held *held, struct held *first)
{
    while (first->next < first->end && held[first->next].idle && !held[first->next].bytes)
        first->next++;
    bool there = first->next < first->end && held[first->next].idle;
    return there ? &held[first->next] : NULL;
}

struct held *shed_next(struct held *held, size_t count)
{
    struct held *next = NULL, *of = NULL;
    for (size_t i = 0; i < count; i = held[i].end) {
        struct held *h = of && held[i].all <= of->all ? NULL : oldest(held, &held[i]);
        if (h) {
            next = h;
            of = &held[i];
        }
    }
    if (next) {
        of->all -= next->bytes;
        of->next++;
    }
    return next;
}
