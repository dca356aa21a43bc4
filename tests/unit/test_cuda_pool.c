/* The pool of the CUDA backend (kernels/cuda/pool.c) against a list of what is handed out. */
#include "kernels/cuda/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KB = 1 << 10, MB = 1 << 20, PIECES = 64 };

/* Where slabs come from: how many are out, how many were asked for, how many more there are. */
static int slabs, asked, left;

static enum err get(void *owner, size_t bytes, void **out)
{
    assert_ptr_equal(owner, &slabs);
    asked++;
    if (left == 0 || posix_memalign(out, 256, bytes) != 0)
        return err_set(ERR_NOMEM, "no slab");
    left--;
    slabs++;
    return ERR_OK;
}

static void put(void *owner, void *p)
{
    assert_ptr_equal(owner, &slabs);
    slabs--;
    free(p);
}

static struct cuda_pool pool_of(int slabs_left)
{
    slabs = asked = 0;
    left = slabs_left;
    return (struct cuda_pool){.get = get, .put = put, .owner = &slabs};
}

static void *take(struct cuda_pool *p, size_t bytes)
{
    void *piece;
    assert_int_equal(cuda_pool_take(p, bytes, &piece), ERR_OK);
    assert_int_equal((uintptr_t)piece % 256, 0);
    memset(piece, 0x5a, bytes); /* it is all there */
    return piece;
}

/* Pieces of three sizes come and go, by a fixed rule; none touches another. */
static void pieces_are_apart_and_come_back_whole(void **state)
{
    static const size_t size[] = {7 * KB + 3, 40 * KB, 129 * KB};
    struct cuda_pool p = pool_of(1);
    struct {
        unsigned char *at;
        size_t bytes;
    } held[PIECES] = {{NULL, 0}};
    unsigned r = 1;
    (void)state;
    assert_int_equal(cuda_pool_reserve(&p, (size_t)PIECES * 130 * KB), ERR_OK);
    for (int i = 0; i < 20000; i++) {
        r = r * 1664525u + 1013904223u;
        unsigned at = (r >> 8) % PIECES;
        unsigned char mark = (unsigned char)(at + 1);
        if (held[at].at) {
            for (size_t j = 0; j < held[at].bytes; j += 997)
                assert_int_equal(held[at].at[j], mark);
            assert_int_equal(held[at].at[held[at].bytes - 1], mark);
            cuda_pool_give(&p, held[at].at, held[at].bytes);
            held[at].at = NULL;
        } else if (i < 19000) {
            held[at].bytes = size[(r >> 20) % 3];
            held[at].at = take(&p, held[at].bytes);
            memset(held[at].at, mark, held[at].bytes);
        }
    }
    for (int i = 0; i < PIECES; i++)
        cuda_pool_give(&p, held[i].at, held[i].bytes); /* NULL too */
    assert_int_equal(p.frees, 1);
    assert_int_equal(p.free[0].bytes, (size_t)PIECES * 130 * KB);
    assert_int_equal(asked, 1);
    assert_int_equal(slabs, 1); /* the reserved one stays */
    cuda_pool_close(&p);
    assert_int_equal(slabs, 0);
}

static void a_full_pool_grows_and_shrinks_but_not_in_turn(void **state)
{
    struct cuda_pool p = pool_of(100);
    void *piece[5];
    (void)state;
    for (int i = 0; i < 5; i++)
        piece[i] = take(&p, 40 * MB); /* one a slab of 64 */
    assert_int_equal(slabs, 5);
    for (int i = 0; i < 5; i++)
        cuda_pool_give(&p, piece[i], 40 * MB);
    assert_int_equal(slabs, 1);
    asked = 0;
    for (int i = 0; i < 10; i++)
        cuda_pool_give(&p, take(&p, 40 * MB), 40 * MB);
    assert_int_equal(asked, 0);
    cuda_pool_give(&p, take(&p, 100 * MB), 100 * MB); /* larger than a slab */
    assert_int_equal(slabs, 1);
    cuda_pool_close(&p);
    assert_int_equal(slabs, 0);
}

static void slabs_that_run_out_are_reported(void **state)
{
    struct cuda_pool p = pool_of(1);
    void *piece, *more;
    (void)state;
    piece = take(&p, 60 * MB);
    assert_int_equal(cuda_pool_take(&p, 10 * MB, &more), ERR_NOMEM);
    assert_null(more);
    cuda_pool_give(&p, take(&p, 3 * MB), 3 * MB);
    assert_int_equal(cuda_pool_reserve(&p, MB), ERR_NOMEM);
    assert_int_equal(cuda_pool_reserve(&p, 0), ERR_OK);
    cuda_pool_give(&p, piece, 60 * MB);
    cuda_pool_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_apart_and_come_back_whole),
        cmocka_unit_test(a_full_pool_grows_and_shrinks_but_not_in_turn),
        cmocka_unit_test(slabs_that_run_out_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
