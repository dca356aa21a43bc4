/* Which of the names that there are was meant by one that there is not. Capitals, and dashes for
 * underscores, make no difference; a letter too many, missing, wrong or changed places with the
 * next counts as one, and few are allowed: one, one more for every six letters typed, three at
 * most. */
#ifndef TV3S_BASE_NEAREST_H
#define TV3S_BASE_NEAREST_H

#include <stdbool.h>

struct nearest {
    const char *typed;
    const char *name; /* the nearest so far, NULL: none is near. Whose it was */
    int distance;
    bool tied;
};

struct nearest nearest_to(const char *typed);
void nearest_offer(struct nearest *n, const char *name);
/* NULL: none is near, or two are equally. */
const char *nearest_name(const struct nearest *n);

struct option;
/* After getopt_long has answered '?' and printed its line: another, "COMMAND: did you mean
 * --NAME?", where what it did not know was a long option near one of `options`, which {0} ends. */
void nearest_option(char **argv, const struct option *options);

#endif
