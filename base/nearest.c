#include "base/nearest.h"

#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST = 64, FAR = LONGEST + 1 };

static int folded(char c)
{
    return c == '-' ? '_' : tolower((unsigned char)c);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Damerau's and Levenshtein's, each letter moved once at most. FAR: one is too long. */
static int distance(const char *a, const char *b)
{
    int row[3]
           [LONGEST + 1]; /* of the letter of `a` now, before, and before that, by those of `b` */
    int n = (int)strnlen(a, LONGEST + 1), m = (int)strnlen(b, LONGEST + 1);
    if (n > LONGEST || m > LONGEST)
        return FAR;
    for (int j = 0; j <= m; j++)
        row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *second = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int x = folded(a[i - 1]), y = folded(b[j - 1]);
            now[j] = least(last[j - 1] + (x != y), least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && x == folded(b[j - 2]) && y == folded(a[i - 2]))
                now[j] = least(now[j], second[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

struct nearest nearest_to(const char *typed)
{
    int allowed = least(1 + (int)strnlen(typed, LONGEST) / 6, 3);
    return (struct nearest){.typed = typed, .distance = allowed + 1};
}

void nearest_offer(struct nearest *n, const char *name)
{
    int d = distance(n->typed, name);
    if (d < n->distance) {
        n->distance = d;
        n->name = name;
        n->tied = false;
    } else if (n->name && d == n->distance)
        n->tied = true;
}

const char *nearest_name(const struct nearest *n)
{
    return n->tied ? NULL : n->name;
}

void nearest_option(char **argv, const struct option *options)
{
    const char *typed = argv[optind - 1];
    char name[LONGEST + 2];
    if (optopt || strncmp(typed, "--", 2) != 0) /* a value too few or too many; a letter */
        return;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(typed + 2, "="), typed + 2);
    struct nearest n = nearest_to(name);
    for (; options->name; options++)
        nearest_offer(&n, options->name);
    if (nearest_name(&n) && strcmp(name, n.name) != 0) /* it lacks its value */
        fprintf(stderr, "%s: did you mean --%s?\n", argv[0], nearest_name(&n));
}
