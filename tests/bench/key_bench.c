/* Whether the time of a key's lookup tells how much of a hash was guessed:
 *
 *   key_bench [rounds]
 *
 * A lookup compares the hash of what was sent with all that are stored (server/access.c). Here are
 * KEYS hashes whose first bytes are those of the probe, 0 to 32 of them; a line for each number:
 * the median over the rounds of the nanoseconds of one lookup by key_hash_equal, and by a loop
 * that stops at the first difference, which shows that a difference would be seen. The numbers
 * take turns within a round, so that what else the machine does meets all of them. The time is the
 * processor's. */
#include "proto/key.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { KEYS = 64, LOOKUPS = 2000, ROUNDS_MAX = 10001 };

static const int prefix[] = {0, 1, 2, 4, 8, 16, 24, 31, 32};
enum { CASES = sizeof prefix / sizeof *prefix };

typedef bool (*equal)(const uint8_t a[KEY_HASH], const uint8_t b[KEY_HASH]);

static bool plain_equal(const uint8_t a[KEY_HASH], const uint8_t b[KEY_HASH])
{
    int i = 0;
    while (i < KEY_HASH && a[i] == b[i])
        i++;
    return i == KEY_HASH;
}

static const equal way[] = {key_hash_equal, plain_equal};
enum { WAYS = sizeof way / sizeof *way };

static uint8_t stored[CASES][KEYS][KEY_HASH];
static double taken[CASES][WAYS][ROUNDS_MAX];
static volatile int found;

/* The probe is all zeros. */
static void store(void)
{
    for (int c = 0; c < CASES; c++)
        for (int k = 0; k < KEYS; k++)
            for (int i = prefix[c]; i < KEY_HASH; i++)
                stored[c][k][i] = (uint8_t)(1 + (k * 7 + i * 13) % 255);
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double lookup_ns(int c, equal same)
{
    static const uint8_t probe[KEY_HASH];
    double began = now_ns();
    for (int n = 0; n < LOOKUPS; n++)
        for (int k = 0; k < KEYS; k++)
            found = same(probe, stored[c][k]) ? k : found;
    return (now_ns() - began) / LOOKUPS;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 201;
    if (rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: key_bench [rounds, 1 to %d]\n", ROUNDS_MAX);
        return 2;
    }
    store();
    for (int r = 0; r < rounds; r++)
        for (int c = 0; c < CASES; c++)
            for (int w = 0; w < WAYS; w++)
                taken[c][w][r] = lookup_ns(c, way[w]);
    printf("%d keys, medians of %d rounds\nequal bytes  key_hash_equal  a loop  (ns a lookup)\n",
           KEYS, rounds);
    for (int c = 0; c < CASES; c++) {
        for (int w = 0; w < WAYS; w++)
            qsort(taken[c][w], (size_t)rounds, sizeof taken[c][w][0], ascending);
        printf("%11d %15.1f %7.1f\n", prefix[c], taken[c][0][rounds / 2], taken[c][1][rounds / 2]);
    }
    return 0;
}
