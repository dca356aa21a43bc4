/* The pickle machine: a stack, a memo, and opcodes that push values (protocols 2 to 5).
 *
 * It is written for hostile input:
 *   - every operand is read through take(), which knows where the buffer ends;
 *   - lengths are compared with what is left before anything is allocated, so memory is bounded by
 *     the input's size times a small factor, and by PK_MAX_MEMORY in any case;
 *   - stack and marks are bounded; a memo index is below the input's length, since each entry
 *     costs at least a byte;
 *   - nothing recurses. Values may form cycles through the memo; only callers walk them;
 *   - GLOBAL looks its name up in a closed table. There is no import, no attribute, no eval.
 * Values come from one arena and are freed together, so there is no ownership to get wrong. */
#include "engine/import/pickle_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum opcode {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_POP = '0',
    OP_POP_MARK = '1',
    OP_DUP = '2',
    OP_BINFLOAT = 'G',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINPERSID = 'Q',
    OP_REDUCE = 'R',
    OP_BINSTRING = 'T',
    OP_SHORT_BINSTRING = 'U',
    OP_BINUNICODE = 'X',
    OP_BINBYTES = 'B',
    OP_SHORT_BINBYTES = 'C',
    OP_APPEND = 'a',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_DICT = 'd',
    OP_APPENDS = 'e',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_LIST = 'l',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_SETITEM = 's',
    OP_TUPLE = 't',
    OP_SETITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_EMPTY_LIST = ']',
    OP_EMPTY_TUPLE = ')',
    OP_PROTO = 0x80,
    OP_NEWOBJ = 0x81,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
    OP_LONG4 = 0x8b,
    OP_SHORT_BINUNICODE = 0x8c,
    OP_BINUNICODE8 = 0x8d,
    OP_BINBYTES8 = 0x8e,
    OP_STACK_GLOBAL = 0x93,
    OP_MEMOIZE = 0x94,
    OP_FRAME = 0x95,
};

/* ---- operands -----------------------------------------------------------------------------------
 */

static enum err cut_off(void)
{
    return err_set(ERR_FORMAT, "pickle is cut off");
}

/* `count` bytes of input. */
static enum err take(struct pickle *p, uint64_t count, const uint8_t **out)
{
    if (count > (uint64_t)(p->end - p->at))
        return cut_off();
    *out = p->at;
    p->at += count;
    return ERR_OK;
}

/* A little-endian unsigned number of `width` <= 8 bytes. */
static enum err take_number(struct pickle *p, int width, uint64_t *out)
{
    const uint8_t *bytes = NULL;
    enum err err = take(p, (uint64_t)width, &bytes);
    if (err)
        return err;
    *out = 0;
    for (int i = width - 1; i >= 0; i--)
        *out = *out << 8 | bytes[i];
    return ERR_OK;
}

static enum err push_int(struct pickle *p, enum pk_type type, int64_t value)
{
    struct pk_value *v = pk_new(p, type);
    if (v)
        v->integer = value;
    return pk_stack(p, v);
}

/* A length of `width` bytes and as many bytes of text. */
static enum err push_text(struct pickle *p, enum pk_type type, int width)
{
    uint64_t len = 0;
    const uint8_t *bytes = NULL;
    enum err err = take_number(p, width, &len);
    if (!err)
        err = take(p, len, &bytes);
    if (err)
        return err;
    struct pk_value *v = pk_new(p, type);
    char *copy = v ? pk_alloc(p, len + 1) : NULL;
    if (!copy)
        return p->err;
    memcpy(copy, bytes, len);
    v->text = (struct pk_text){copy, len};
    return pk_stack(p, v);
}

/* A two's complement number of any width; ours ends at 64 bits. */
static enum err push_long(struct pickle *p, int width)
{
    uint64_t len = 0, value = 0;
    const uint8_t *bytes = NULL;
    enum err err = take_number(p, width, &len);
    if (!err)
        err = take(p, len, &bytes);
    if (err)
        return err;
    if (len > 8)
        return err_set(ERR_UNSUPPORTED, "pickle has a number of %" PRIu64 " bytes", len);
    for (size_t i = 0; i < 8; i++) {
        uint64_t byte = i < len ? bytes[i] : len && bytes[len - 1] & 0x80 ? 0xff : 0;
        value |= byte << 8 * i;
    }
    return push_int(p, PK_INT, (int64_t)value);
}

static enum err push_float(struct pickle *p)
{
    const uint8_t *bytes = NULL;
    uint64_t bits = 0;
    enum err err = take(p, 8, &bytes);
    if (err)
        return err;
    for (int i = 0; i < 8; i++) /* big-endian, the only such thing in a pickle */
        bits = bits << 8 | bytes[i];
    struct pk_value *v = pk_new(p, PK_FLOAT);
    if (v)
        memcpy(&v->real, &bits, sizeof bits);
    return pk_stack(p, v);
}

/* ---- globals ------------------------------------------------------------------------------------
 */

static enum err push_callable(struct pickle *p, const char *module, const char *name)
{
    const struct pk_callable *c = pk_find_callable(module, name);
    if (!c)
        return err_set(ERR_UNSUPPORTED, "pickle wants to call %.100s.%.100s", module, name);
    struct pk_value *v = pk_new(p, PK_CALLABLE);
    if (v)
        v->callable = c;
    return pk_stack(p, v);
}

/* A line of text up to the newline, NUL-terminated in `out`. */
static enum err take_line(struct pickle *p, char *out, size_t size)
{
    const uint8_t *stop = memchr(p->at, '\n', (size_t)(p->end - p->at));
    if (!stop)
        return cut_off();
    size_t len = (size_t)(stop - p->at);
    snprintf(out, size, "%.*s", len < size ? (int)len : (int)size - 1, (const char *)p->at);
    p->at = stop + 1;
    return ERR_OK;
}

static enum err global(struct pickle *p)
{
    char module[128], name[128];
    enum err err = take_line(p, module, sizeof module);
    if (!err)
        err = take_line(p, name, sizeof name);
    return err ? err : push_callable(p, module, name);
}

static enum err stack_global(struct pickle *p)
{
    enum err err = pk_need(p, 2);
    if (err)
        return err;
    const struct pk_value *name = p->stack[--p->depth], *module = p->stack[--p->depth];
    if (module->type != PK_STRING || name->type != PK_STRING)
        return err_set(ERR_FORMAT, "pickle is broken: a global without a name");
    return push_callable(p, module->text.at, name->text.at);
}

static enum err reduce(struct pickle *p)
{
    enum err err = pk_need(p, 2);
    if (err)
        return err;
    const struct pk_value *args = p->stack[--p->depth], *f = p->stack[--p->depth];
    struct pk_value *result = NULL;
    if (f->type != PK_CALLABLE || args->type != PK_TUPLE)
        return err_set(ERR_FORMAT, "pickle is broken: it calls what is no function");
    if (!f->callable->call)
        return err_set(ERR_UNSUPPORTED, "pickle wants to call %s.%s", f->callable->module,
                       f->callable->name);
    err = f->callable->call(p, f->callable, args, &result);
    return err ? err : pk_stack(p, result);
}

static enum err persistent(struct pickle *p)
{
    enum err err = pk_need(p, 1);
    struct pk_value *storage = NULL;
    if (!err)
        err = pk_persistent(p, p->stack[--p->depth], &storage);
    return err ? err : pk_stack(p, storage);
}

static enum err build(struct pickle *p)
{
    enum err err = pk_need(p, 2);
    if (err)
        return err;
    const struct pk_value *state = p->stack[--p->depth];
    return pk_build(p, pk_top(p), state);
}

/* ---- opcodes ------------------------------------------------------------------------------------
 */

static enum err step_number(struct pickle *p, uint8_t op)
{
    uint64_t n = 0;
    enum err err = take_number(p, op == OP_BININT ? 4 : op == OP_BININT2 ? 2 : 1, &n);
    return err ? err : push_int(p, PK_INT, op == OP_BININT ? (int32_t)(uint32_t)n : (int64_t)n);
}

static enum err step_memo(struct pickle *p, uint8_t op)
{
    uint64_t n = p->memo_count;
    enum err err = ERR_OK;
    if (op == OP_BINPUT || op == OP_BINGET)
        err = take_number(p, 1, &n);
    else if (op == OP_LONG_BINPUT || op == OP_LONG_BINGET)
        err = take_number(p, 4, &n);
    if (err)
        return err;
    return op == OP_BINGET || op == OP_LONG_BINGET ? pk_memo_get(p, n) : pk_memo_put(p, n);
}

/* Containers from the last mark, or of the last `count` values. */
static enum err step_marked(struct pickle *p, uint8_t op)
{
    size_t from = 0;
    enum err err = pk_pop_mark(p, &from);
    if (err)
        return err;
    switch (op) {
    case OP_TUPLE:
        return pk_collect(p, PK_TUPLE, from);
    case OP_LIST:
        return pk_collect(p, PK_LIST, from);
    case OP_DICT:
        return pk_collect(p, PK_DICT, from);
    case OP_APPENDS:
        return pk_extend(p, PK_LIST, from);
    case OP_SETITEMS:
        return pk_extend(p, PK_DICT, from);
    default: /* OP_POP_MARK */
        p->depth = from;
        return ERR_OK;
    }
}

static enum err step_counted(struct pickle *p, uint8_t op)
{
    size_t count = op == OP_APPEND || op == OP_TUPLE1 ? 1 : op == OP_TUPLE3 ? 3 : 2;
    enum err err = pk_need(p, count);
    if (err)
        return err;
    if (op == OP_APPEND)
        return pk_extend(p, PK_LIST, p->depth - count);
    if (op == OP_SETITEM)
        return pk_extend(p, PK_DICT, p->depth - count);
    return pk_collect(p, PK_TUPLE, p->depth - count);
}

static enum err step_stack(struct pickle *p, uint8_t op)
{
    enum err err = pk_need(p, 1);
    if (err)
        return err;
    if (op == OP_DUP)
        return pk_stack(p, pk_top(p));
    p->depth--;
    return ERR_OK;
}

static enum err refuse(const struct pickle *p, uint8_t op)
{
    if (op == OP_NEWOBJ && pk_available(p) >= 2 && p->stack[p->depth - 2]->type == PK_CALLABLE) {
        const struct pk_callable *c = p->stack[p->depth - 2]->callable;
        return err_set(ERR_UNSUPPORTED, "pickle wants to make a %s.%s", c->module, c->name);
    }
    return err_set(ERR_UNSUPPORTED, "pickle has the opcode 0x%02x, which no checkpoint needs", op);
}

static enum err step(struct pickle *p, uint8_t op)
{
    uint64_t ignored;
    switch (op) {
    case OP_PROTO:
        return take_number(p, 1, &ignored);
    case OP_FRAME:
        return take_number(p, 8, &ignored);
    case OP_MARK:
        return pk_push_mark(p);
    case OP_POP:
    case OP_DUP:
        return step_stack(p, op);
    case OP_NONE:
        return pk_stack(p, pk_new(p, PK_NONE));
    case OP_NEWTRUE:
    case OP_NEWFALSE:
        return push_int(p, PK_BOOL, op == OP_NEWTRUE);
    case OP_BININT:
    case OP_BININT1:
    case OP_BININT2:
        return step_number(p, op);
    case OP_LONG1:
        return push_long(p, 1);
    case OP_LONG4:
        return push_long(p, 4);
    case OP_BINFLOAT:
        return push_float(p);
    case OP_SHORT_BINUNICODE:
    case OP_SHORT_BINSTRING:
        return push_text(p, PK_STRING, 1);
    case OP_BINUNICODE:
    case OP_BINSTRING:
        return push_text(p, PK_STRING, 4);
    case OP_BINUNICODE8:
        return push_text(p, PK_STRING, 8);
    case OP_SHORT_BINBYTES:
        return push_text(p, PK_BYTES, 1);
    case OP_BINBYTES:
        return push_text(p, PK_BYTES, 4);
    case OP_BINBYTES8:
        return push_text(p, PK_BYTES, 8);
    case OP_EMPTY_TUPLE:
        return pk_stack(p, pk_new(p, PK_TUPLE));
    case OP_EMPTY_LIST:
        return pk_stack(p, pk_new(p, PK_LIST));
    case OP_EMPTY_DICT:
        return pk_stack(p, pk_new(p, PK_DICT));
    case OP_TUPLE:
    case OP_LIST:
    case OP_DICT:
    case OP_APPENDS:
    case OP_SETITEMS:
    case OP_POP_MARK:
        return step_marked(p, op);
    case OP_APPEND:
    case OP_SETITEM:
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3:
        return step_counted(p, op);
    case OP_BINGET:
    case OP_LONG_BINGET:
    case OP_BINPUT:
    case OP_LONG_BINPUT:
    case OP_MEMOIZE:
        return step_memo(p, op);
    case OP_GLOBAL:
        return global(p);
    case OP_STACK_GLOBAL:
        return stack_global(p);
    case OP_REDUCE:
        return reduce(p);
    case OP_BINPERSID:
        return persistent(p);
    case OP_BUILD:
        return build(p);
    default:
        return refuse(p, op);
    }
}

static enum err run(struct pickle *p)
{
    enum err err = ERR_OK;
    while (!err) {
        if (p->at == p->end)
            return cut_off();
        uint8_t op = *p->at++;
        if (op == OP_STOP)
            break;
        err = step(p, op);
    }
    if (!err)
        err = pk_need(p, 1);
    if (!err)
        p->root = pk_top(p);
    return err;
}

enum err pickle_open(const void *buf, size_t len, struct pickle **out)
{
    *out = NULL;
    if (len < 2 || *(const uint8_t *)buf != OP_PROTO)
        return err_set(ERR_FORMAT, "not a pickle of protocol 2 or later");
    if (len > PK_MAX_INPUT)
        return err_set(ERR_LIMIT, "a pickle of %zu bytes, more than %d", len, PK_MAX_INPUT);
    struct pickle *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "no memory for a pickle");
    p->at = buf;
    p->end = p->at + len;
    p->len = len;
    enum err err = run(p);
    if (err) {
        pickle_close(p);
        return err;
    }
    *out = p;
    return ERR_OK;
}

const struct pk_value *pickle_root(const struct pickle *p)
{
    return p->root;
}
