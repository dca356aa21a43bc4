#include "engine/arch_parts.h"
#include "engine/import/labels.h"
#include "engine/import/pickle_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* A pickle of a string literal, NULs and all. */
#define OPEN(literal, p) pickle_open(literal, sizeof(literal) - 1, p)

/* Fragments. A storage of 6 floats, and the call that views it. */
#define STORAGE                                                                                    \
    "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                             \
    "0X\3\0\0\0cpuK\6tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n("
#define TAIL                                                                                       \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)RtR"

static void plain_values_are_built(void **state)
{
    (void)state;
    struct pickle *p;
    assert_int_equal(
        OPEN("\x80\2(K\5J\xfe\xff\xff\xffM\1\2\x8a\2\xff\xff\x8a\0N"
             "G\x3f\xf8\0\0\0\0\0\0\x88\x89X\2\0\0\0hiU\1x]K\1a}X\1\0\0\0kK\2s)K\1\x85t.",
             &p),
        ERR_OK);
    const struct pk_value *v = pickle_root(p);
    assert_int_equal(v->type, PK_TUPLE);
    assert_int_equal(v->items.count, 15);
    struct pk_value **at = v->items.at;
    assert_int_equal(at[0]->integer, 5);
    assert_int_equal(at[1]->integer, -2);
    assert_int_equal(at[2]->integer, 513);
    assert_int_equal(at[3]->integer, -1);
    assert_int_equal(at[4]->integer, 0);
    assert_int_equal(at[5]->type, PK_NONE);
    assert_true(at[6]->real == 1.5);
    assert_true(at[7]->type == PK_BOOL && at[7]->integer == 1);
    assert_true(at[8]->type == PK_BOOL && at[8]->integer == 0);
    assert_string_equal(at[9]->text.at, "hi");
    assert_string_equal(at[10]->text.at, "x");
    assert_int_equal(at[11]->items.count, 1);
    assert_int_equal(pickle_get(at[12], "k")->integer, 2);
    assert_null(pickle_get(at[12], "other"));
    assert_int_equal(at[13]->items.count, 0);
    assert_int_equal(at[14]->items.count, 1);
    pickle_close(p);
}

static void later_protocols_are_read(void **state)
{
    (void)state;
    struct pickle *p;
    assert_int_equal(OPEN("\x80\4\x95\x14\0\0\0\0\0\0\0}\x94\x8c\1a\x94"
                          "\x8e\1\0\0\0\0\0\0\0zsh\1.",
                          &p),
                     ERR_OK);
    assert_string_equal(pickle_root(p)->text.at, "a");
    pickle_close(p);
    assert_int_equal(OPEN("\x80\4\x8c\2os\x8c\6system\x93.", &p), ERR_UNSUPPORTED);
    assert_string_equal(err_text(), "pickle wants to call os.system");
    assert_int_equal(OPEN("\x80\4\x8c\13collections\x8c\13OrderedDict\x93)R.", &p), ERR_OK);
    assert_int_equal(pickle_root(p)->type, PK_DICT);
    pickle_close(p);
}

static void tensors_name_their_storage(void **state)
{
    (void)state;
    struct pickle *p;
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\1K\2K\2\x86K\3K\1\x86" TAIL ".", &p), ERR_OK);
    const struct pk_value *v = pickle_root(p);
    assert_int_equal(v->type, PK_TENSOR);
    assert_int_equal(v->tensor->ndim, 2);
    assert_int_equal(v->tensor->offset, 1);
    assert_int_equal(v->tensor->stride[0], 3);
    assert_string_equal(v->tensor->storage->key, "0");
    assert_int_equal(v->tensor->storage->dtype, DT_F32);
    assert_int_equal(v->tensor->storage->numel, 6);
    pickle_close(p);
}

static void tensors_outside_their_storage_are_refused(void **state)
{
    (void)state;
    struct pickle *p;
    /* too many, an offset too far, a stride too wide, negative ones, a product that overflows */
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\0K\7\x85K\1\x85" TAIL ".", &p), ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\6K\1\x85K\1\x85" TAIL ".", &p), ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\0K\2\x85K\6\x85" TAIL ".", &p), ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "J\xff\xff\xff\xffK\1\x85K\1\x85" TAIL ".", &p),
                     ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\0K\2\x85J\xff\xff\xff\xff\x85" TAIL ".", &p),
                     ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\0\x8a\x08\1\0\0\0\0\0\0\x40\x85"
                          "\x8a\x08\0\0\0\0\0\0\0\x40\x85" TAIL ".",
                          &p),
                     ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD STORAGE "K\0K\1\x85)" TAIL ".", &p), ERR_FORMAT);
    assert_int_equal(OPEN("\x80\2" REBUILD "K\0K\0K\1\x85K\1\x85" TAIL ".", &p), ERR_FORMAT);
}

static void whatever_else_it_wants_to_call_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } bad[] = {
#define BAD(bytes, text) {bytes, sizeof(bytes) - 1, text}
        BAD("\x80\2cos\nsystem\nX\2\0\0\0ls\x85R.", "pickle wants to call os.system"),
        BAD("\x80\2cposix\nsystem\n.", "pickle wants to call posix.system"),
        BAD("\x80\2cbuiltins\neval\n.", "pickle wants to call builtins.eval"),
        BAD("\x80\2c__builtin__\ngetattr\n.", "pickle wants to call __builtin__.getattr"),
        BAD("\x80\2ctorch.storage\n_load_from_bytes\n.",
            "pickle wants to call torch.storage._load_from_bytes"),
        BAD("\x80\2ctorch\nFloatStorage\n)R.", "pickle wants to call torch.FloatStorage"),
        BAD("\x80\2ctorch\nFloatStorage\n)\x81.", "pickle wants to make a torch.FloatStorage"),
        BAD("\x80\2ccollections\nOrderedDict.system\n.",
            "pickle wants to call collections.OrderedDict.system"),
        BAD("\x80\2co\ns\nsystem\n.", "pickle wants to call o.s"),
        BAD("\x80\2K\1}b.", "pickle wants to set the insides of an object"),
        BAD("\x80\2(ios\nsystem\n.", "pickle has the opcode 0x69, which no checkpoint needs"),
        BAD("\x80\2P1\n.", "pickle has the opcode 0x50, which no checkpoint needs"),
        BAD("\x80\2\x82\1.", "pickle has the opcode 0x82, which no checkpoint needs"),
        BAD("\x80\2cnumpy\ndtype\nX\2\0\0\0O8\x85R.", "pickle wants to make a dtype of type 'O8'"),
        BAD("\x80\2K\1Q.", "pickle refers to something that is no tensor storage"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pickle *p;
        assert_int_equal(pickle_open(bad[i].bytes, bad[i].len, &p), ERR_UNSUPPORTED);
        assert_string_equal(err_text(), bad[i].text);
    }
}

static void broken_pickles_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
#define CUT(bytes) {bytes, sizeof(bytes) - 1}
        CUT(""),
        CUT("\x80"),
        CUT("\x80\2"),
        CUT("\x80\2."),
        CUT("hello"),
        CUT("(lp0\n."),
        CUT("\x80\2K"),
        CUT("\x80\2X\xff\xff\xff\xff."),
        CUT("\x80\2X\5\0\0\0abc."),
        CUT("\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\xff."),
        CUT("\x80\2cos"),
        CUT("\x80\2h\0."),
        CUT("\x80\2q\0."),
        CUT("\x80\2K\1r\xff\xff\xff\xff."),
        CUT("\x80\2t."),
        CUT("\x80\2\x86."),
        CUT("\x80\2K\1K\2s."),
        CUT("\x80\2K\1(K\2e."),
        CUT("\x80\2(K\1d."),
        CUT("\x80\2}(K\1u."),
        CUT("\x80\2K\1)R."),
        CUT("\x80\2(0."),
        CUT("\x80\2(K\1."),
        CUT("\x80\2K\1(\x85."),
        CUT("\x80\2K\1K\2\x93."),
        CUT("\x80\2\x8a\xff."),
        CUT("\x80\2\x8b\xff\xff\xff\xff."),
        CUT("\x80\2G\0\0."),
        CUT("\x80\2}b."),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pickle *p = NULL;
        bool open_mark = strcmp(bad[i].bytes, "\x80\2(K\1.") == 0; /* harmless */
        if (pickle_open(bad[i].bytes, bad[i].len, &p) == ERR_OK && !open_mark)
            fail_msg("accepted number %zu", i);
        pickle_close(p);
    }
}

/* The opcode `op` `count` times between a start and an end. */
static enum err repeat(const char *head, size_t head_len, const char *op, size_t op_len,
                       size_t count, const char *tail)
{
    struct pickle *p;
    size_t len = head_len + op_len * count + strlen(tail);
    char *buf = malloc(len), *at = buf + head_len;
    assert_non_null(buf);
    memcpy(buf, head, head_len);
    for (size_t i = 0; i < count; i++, at += op_len)
        memcpy(at, op, op_len);
    memcpy(at, tail, strlen(tail));
    enum err err = pickle_open(buf, len, &p);
    if (!err)
        pickle_close(p);
    free(buf);
    return err;
}

static void limits_hold(void **state)
{
    (void)state;
    assert_int_equal(repeat("\x80\2", 2, "N", 1, PK_MAX_STACK + 1, "."), ERR_LIMIT);
    assert_int_equal(repeat("\x80\2", 2, "(", 1, PK_MAX_MARKS + 1, "."), ERR_LIMIT);
    assert_int_equal(repeat("\x80\2", 2, "]0", 2, 10000000, "."), ERR_LIMIT); /* memory */
    assert_int_equal(repeat("\x80\2N", 3, "\x85", 1, 1000000, "."), ERR_OK);  /* deep, but flat */
}

static void a_list_may_hold_itself(void **state)
{
    (void)state;
    struct pickle *p;
    assert_int_equal(OPEN("\x80\2]q\0h\0a.", &p), ERR_OK);
    assert_ptr_equal(pickle_root(p)->items.at[0], pickle_root(p));
    pickle_close(p);
}

static void labels_come_from_meta(void **state)
{
    (void)state;
    static struct arch a = {.classes = 2};
    struct pickle *p;
    const char *note = NULL;
    arch_default_labels(&a);
    /* a palette as a numpy array: [[1, 2, 3], [4, 5, 6]] of u1 */
    assert_int_equal(OPEN("\x80\2}X\4\0\0\0meta}(X\7\0\0\0CLASSES"
                          "X\3\0\0\0catX\3\0\0\0dog\x86X\7\0\0\0PALETTE"
                          "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
                          "C\1b\x87R(K\1K\2K\3\x86"
                          "cnumpy\ndtype\nX\2\0\0\0u1K\0K\1\x87R"
                          "\x89"
                          "C\6\1\2\3\4\5\6tbus.",
                          &p),
                     ERR_OK);
    assert_true(labels_from_pickle(pickle_root(p), &a, &note));
    assert_null(note);
    assert_string_equal(a.class_names[1], "dog");
    assert_int_equal(a.palette[1][2], 6);
    a.classes = 3;
    assert_true(labels_from_pickle(pickle_root(p), &a, &note));
    assert_non_null(note);
    pickle_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_values_are_built),
        cmocka_unit_test(later_protocols_are_read),
        cmocka_unit_test(tensors_name_their_storage),
        cmocka_unit_test(tensors_outside_their_storage_are_refused),
        cmocka_unit_test(whatever_else_it_wants_to_call_is_named),
        cmocka_unit_test(broken_pickles_are_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(a_list_may_hold_itself),
        cmocka_unit_test(labels_come_from_meta),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
