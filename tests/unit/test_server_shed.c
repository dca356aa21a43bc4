/* Who floods loses his own. */
#include "server/shed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { MOST = 16 };

struct crowd {
    struct held held[MOST];
    size_t count;
};

/* An owner is a letter; a stream is known by when it was touched. */
static void come(struct crowd *c, char owner, uint64_t bytes, char touched, bool idle)
{
    static const char letters[128];
    c->held[c->count++] = (struct held){.owner = (const void *)&letters[(int)owner],
                                        .bytes = bytes,
                                        .touched = (uint64_t)touched,
                                        .idle = idle};
}

/* In the order of `want` they go. */
static void go(struct crowd *c, const char *want)
{
    char got[MOST + 1] = "";
    size_t n = 0;
    shed_sort(c->held, c->count);
    for (struct held *h; n < MOST && (h = shed_next(c->held, c->count)); n++)
        got[n] = (char)h->touched;
    assert_string_equal(got, want);
}

static void of_one_owner_the_oldest_goes_first(void **state)
{
    struct crowd c = {0};
    (void)state;
    come(&c, 'a', 10, 'c', true);
    come(&c, 'a', 10, 'a', true);
    come(&c, 'a', 99, 'd', false); /* not idle */
    come(&c, 'a', 0, 'e', true);   /* nothing to gain */
    come(&c, 'a', 10, 'b', true);
    go(&c, "abc");
}

static void who_holds_most_goes_first(void **state)
{
    struct crowd c = {0};
    (void)state;
    come(&c, 'a', 30, 'A', true); /* the oldest of all */
    come(&c, 'b', 30, 'm', true);
    come(&c, 'b', 30, 'n', true);
    come(&c, 'b', 30, 'o', true);
    come(&c, 'c', 50, 'z', true);
    /* b has 90, then 60, then 30; c 50; a 30 */
    go(&c, "mnzAo");
}

static void what_is_in_use_counts_and_stays(void **state)
{
    struct crowd c = {0};
    (void)state;
    come(&c, 'a', 20, 'A', true);
    come(&c, 'b', 90, 'm', false);
    come(&c, 'b', 1, 'n', true);
    come(&c, 'c', 500, 'z', false); /* who has none that may go is passed over */
    go(&c, "nA");
}

static void nobody_is_nobody(void **state)
{
    struct crowd c = {0};
    (void)state;
    go(&c, "");
    come(&c, 'a', 20, 'A', false);
    go(&c, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_one_owner_the_oldest_goes_first),
        cmocka_unit_test(who_holds_most_goes_first),
        cmocka_unit_test(what_is_in_use_counts_and_stays),
        cmocka_unit_test(nobody_is_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
