/* Everything that a checkpoint's pickle may call: a closed table. Each function checks the number
 * and the types of its arguments and makes a value of ours; none has any other effect.
 *
 * A tensor is _rebuild_tensor_v2(storage, offset, size, stride, ...). It is checked here, once, to
 * lie inside its storage, so that whoever reads it later only has to check that the storage is as
 * long as it says. numpy occurs in the `meta` of a checkpoint: scalars, a palette as an array. */
#include "engine/import/pickle_parts.h"

#include <inttypes.h>

enum { NP_MAX_ELEMENTS = 1 << 16 };

static enum err bad_call(const char *what)
{
    return err_set(ERR_FORMAT, "pickle is broken: wrong arguments for %s", what);
}

static const struct pk_value *arg(const struct pk_value *args, size_t i)
{
    static const struct pk_value none = {.type = PK_NONE};
    return i < args->items.count ? args->items.at[i] : &none;
}

static enum err made(struct pickle *p, struct pk_value *v, struct pk_value **out)
{
    *out = v;
    return v ? ERR_OK : p->err;
}

/* ---- containers and bytes -----------------------------------------------------------------------
 */

/* OrderedDict() or OrderedDict([(key, value), ...]). */
static enum err call_ordered_dict(struct pickle *p, const struct pk_callable *self,
                                  const struct pk_value *args, struct pk_value **out)
{
    const struct pk_value *pairs = arg(args, 0);
    if (args->items.count > 1 || (args->items.count && pairs->type != PK_LIST))
        return bad_call(self->name);
    struct pk_value *dict = pk_new(p, PK_DICT);
    if (!dict)
        return p->err;
    size_t count = args->items.count ? pairs->items.count : 0;
    for (size_t i = 0; i < count; i++) {
        const struct pk_value *pair = pairs->items.at[i];
        if ((pair->type != PK_TUPLE && pair->type != PK_LIST) || pair->items.count != 2)
            return bad_call(self->name);
        enum err err = pk_push(p, dict, pair->items.at[0]);
        if (!err)
            err = pk_push(p, dict, pair->items.at[1]);
        if (err)
            return err;
    }
    *out = dict;
    return ERR_OK;
}

/* torch.Size((64, 3)): the tuple itself. */
static enum err call_size(struct pickle *p, const struct pk_callable *self,
                          const struct pk_value *args, struct pk_value **out)
{
    (void)p;
    if (args->items.count != 1 || arg(args, 0)->type != PK_TUPLE)
        return bad_call(self->name);
    *out = args->items.at[0];
    return ERR_OK;
}

/* _codecs.encode("text", "latin1"): how Python 3 writes bytes in protocol 2. */
static enum err call_encode(struct pickle *p, const struct pk_callable *self,
                            const struct pk_value *args, struct pk_value **out)
{
    const struct pk_value *text = arg(args, 0), *codec = arg(args, 1);
    if (text->type != PK_STRING || codec->type != PK_STRING ||
        (strcmp(codec->text.at, "latin1") != 0 && strcmp(codec->text.at, "latin-1") != 0))
        return bad_call(self->name);
    struct pk_value *v = pk_new(p, PK_BYTES);
    char *bytes = v ? pk_alloc(p, text->text.len + 1) : NULL;
    if (!bytes)
        return p->err;
    const uint8_t *s = (const uint8_t *)text->text.at;
    size_t n = 0;
    for (size_t i = 0; i < text->text.len; i++) {
        if (s[i] < 0x80)
            bytes[n++] = (char)s[i];
        else if ((s[i] == 0xc2 || s[i] == 0xc3) && i + 1 < text->text.len &&
                 (s[i + 1] & 0xc0) == 0x80) {
            bytes[n++] = (char)((s[i] & 3) << 6 | (s[i + 1] & 0x3f));
            i++;
        } else
            return bad_call(self->name);
    }
    v->text = (struct pk_text){bytes, n};
    *out = v;
    return ERR_OK;
}

/* bytes(): empty ones, in protocol 2. */
static enum err call_bytes(struct pickle *p, const struct pk_callable *self,
                           const struct pk_value *args, struct pk_value **out)
{
    static char empty[1];
    if (args->items.count)
        return bad_call(self->name);
    struct pk_value *v = pk_new(p, PK_BYTES);
    if (v)
        v->text.at = empty;
    return made(p, v, out);
}

/* ---- tensors ------------------------------------------------------------------------------------
 */

enum err pk_persistent(struct pickle *p, const struct pk_value *id, struct pk_value **out)
{
    if (id->type != PK_TUPLE || id->items.count < 5 || arg(id, 0)->type != PK_STRING ||
        strcmp(arg(id, 0)->text.at, "storage") != 0)
        return err_set(ERR_UNSUPPORTED, "pickle refers to something that is no tensor storage");
    const struct pk_value *class = arg(id, 1), *key = arg(id, 2), *numel = arg(id, 4);
    if (class->type != PK_CALLABLE || class->callable->storage == DT_COUNT ||
        key->type != PK_STRING || key->text.len != strlen(key->text.at) || numel->type != PK_INT ||
        numel->integer < 0)
        return bad_call("a storage");
    struct pk_value *v = pk_new(p, PK_STORAGE);
    struct pk_storage *s = v ? pk_alloc(p, sizeof *s) : NULL;
    if (!s)
        return p->err;
    *s = (struct pk_storage){key->text.at, class->callable->storage, (uint64_t)numel->integer};
    v->storage = s;
    *out = v;
    return ERR_OK;
}

/* Whether all of the view lies inside its storage. */
static bool inside(const struct pk_tensor *t)
{
    uint64_t last = t->offset, span;
    bool empty = false;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow((uint64_t)t->shape[i] - 1, (uint64_t)t->stride[i], &span) ||
                 __builtin_add_overflow(last, span, &last))
            return false;
    }
    return empty ? t->offset <= t->storage->numel : last < t->storage->numel;
}

static enum err call_tensor(struct pickle *p, const struct pk_callable *self,
                            const struct pk_value *args, struct pk_value **out)
{
    const struct pk_value *storage = arg(args, 0), *offset = arg(args, 1);
    const struct pk_value *shape = arg(args, 2), *stride = arg(args, 3);
    if (storage->type != PK_STORAGE || offset->type != PK_INT || offset->integer < 0 ||
        shape->type != PK_TUPLE || stride->type != PK_TUPLE ||
        shape->items.count != stride->items.count)
        return bad_call(self->name);
    if (shape->items.count > ST_MAX_DIMS)
        return err_set(ERR_LIMIT, "pickle has a tensor of %zu dimensions", shape->items.count);
    struct pk_value *v = pk_new(p, PK_TENSOR);
    struct pk_tensor *t = v ? pk_alloc(p, sizeof *t) : NULL;
    if (!t)
        return p->err;
    t->storage = storage->storage;
    t->offset = (uint64_t)offset->integer;
    t->ndim = (int)shape->items.count;
    for (int i = 0; i < t->ndim; i++) {
        const struct pk_value *n = shape->items.at[i], *by = stride->items.at[i];
        if (n->type != PK_INT || n->integer < 0 || by->type != PK_INT || by->integer < 0)
            return bad_call(self->name);
        t->shape[i] = n->integer;
        t->stride[i] = by->integer;
    }
    if (!inside(t))
        return err_set(ERR_FORMAT, "pickle has a tensor that reaches outside its storage '%.40s'",
                       t->storage->key);
    v->tensor = t;
    *out = v;
    return ERR_OK;
}

/* _rebuild_parameter(tensor, requires_grad, hooks): the tensor. */
static enum err call_parameter(struct pickle *p, const struct pk_callable *self,
                               const struct pk_value *args, struct pk_value **out)
{
    (void)p;
    if (arg(args, 0)->type != PK_TENSOR)
        return bad_call(self->name);
    *out = args->items.at[0];
    return ERR_OK;
}

/* ---- numpy --------------------------------------------------------------------------------------
 */

/* numpy.dtype("f8", ...). */
static enum err call_np_dtype(struct pickle *p, const struct pk_callable *self,
                              const struct pk_value *args, struct pk_value **out)
{
    const struct pk_value *code = arg(args, 0);
    const char *s = code->type == PK_STRING ? code->text.at : "";
    bool known = strlen(s) == 2 && strchr("fiub", s[0]) && strchr("1248", s[1]);
    if (!known || (s[0] == 'f' && s[1] < '4') || (s[0] == 'b' && s[1] != '1'))
        return err_set(ERR_UNSUPPORTED, "pickle wants to make a %s of type '%.20s'", self->name, s);
    struct pk_value *v = pk_new(p, PK_NP_DTYPE);
    if (v)
        v->np = (struct pk_np_dtype){s[0], s[1] - '0'};
    return made(p, v, out);
}

static struct pk_value *np_element(struct pickle *p, struct pk_np_dtype t, const char *bytes)
{
    struct pk_value *v = pk_new(p, t.kind == 'f' ? PK_FLOAT : t.kind == 'b' ? PK_BOOL : PK_INT);
    uint64_t bits = 0;
    if (!v)
        return NULL;
    memcpy(&bits, bytes, (size_t)t.size); /* numpy's '<', as this machine */
    if (t.kind == 'f' && t.size == 4) {
        float f;
        memcpy(&f, bytes, sizeof f);
        v->real = (double)f;
    } else if (t.kind == 'f') {
        memcpy(&v->real, bytes, sizeof v->real);
    } else if (t.kind == 'i' && t.size < 8) {
        uint64_t sign = 1ull << (8 * t.size - 1);
        v->integer = (int64_t)((bits ^ sign) - sign);
    } else {
        v->integer = (int64_t)bits;
    }
    return v;
}

/* numpy.core.multiarray.scalar(dtype, bytes). */
static enum err call_np_scalar(struct pickle *p, const struct pk_callable *self,
                               const struct pk_value *args, struct pk_value **out)
{
    const struct pk_value *type = arg(args, 0), *bytes = arg(args, 1);
    if (type->type != PK_NP_DTYPE || bytes->type != PK_BYTES ||
        bytes->text.len != (size_t)type->np.size)
        return bad_call(self->name);
    return made(p, np_element(p, type->np, bytes->text.at), out);
}

/* numpy.core.multiarray._reconstruct(ndarray, (0,), b"b"): an empty array; BUILD fills it. */
static enum err call_np_array(struct pickle *p, const struct pk_callable *self,
                              const struct pk_value *args, struct pk_value **out)
{
    (void)self, (void)args;
    return made(p, pk_new(p, PK_NP_ARRAY), out);
}

/* The state of an array: (version, shape, dtype, is Fortran order, bytes). One of up to two sides
 * and reasonable size becomes a list (of lists); anything else stays an opaque array. */
static enum err np_fill(struct pickle *p, struct pk_value *array, const struct pk_value *state)
{
    const struct pk_value *shape = arg(state, 1), *type = arg(state, 2), *bytes = arg(state, 4);
    uint64_t sides[2] = {1, 1};
    if (shape->type != PK_TUPLE || type->type != PK_NP_DTYPE || bytes->type != PK_BYTES)
        return bad_call("numpy.ndarray");
    size_t ndim = shape->items.count;
    for (size_t i = 0; i < ndim; i++) {
        const struct pk_value *n = shape->items.at[i];
        if (n->type != PK_INT || n->integer < 0)
            return bad_call("numpy.ndarray");
        if (ndim > 2 || n->integer > NP_MAX_ELEMENTS)
            return ERR_OK;
        sides[i] = (uint64_t)n->integer;
    }
    size_t size = (size_t)type->np.size, fortran = (size_t)(arg(state, 3)->integer != 0);
    if (ndim == 0 || sides[0] * sides[1] > NP_MAX_ELEMENTS || fortran)
        return ERR_OK;
    if (bytes->text.len != sides[0] * sides[1] * size)
        return bad_call("numpy.ndarray");
    array->type = PK_LIST;
    array->items = (struct pk_items){0};
    const char *at = bytes->text.at;
    for (uint64_t y = 0; y < sides[0]; y++) {
        struct pk_value *row = ndim == 2 ? pk_new(p, PK_LIST) : array;
        for (uint64_t x = 0; row && x < sides[1]; x++, at += size) {
            struct pk_value *v = np_element(p, type->np, at);
            if (!v || pk_push(p, row, v))
                return p->err;
        }
        if (!row || (row != array && pk_push(p, array, row)))
            return p->err;
    }
    return ERR_OK;
}

/* ---- BUILD --------------------------------------------------------------------------------------
 */

enum err pk_build(struct pickle *p, struct pk_value *object, const struct pk_value *state)
{
    /* The `_metadata` of a state dict: versions of its modules. */
    if (object->type == PK_DICT && state->type == PK_DICT)
        return ERR_OK;
    if (object->type == PK_NP_DTYPE && state->type == PK_TUPLE) {
        const struct pk_value *order = arg(state, 1);
        if (order->type == PK_STRING && strcmp(order->text.at, ">") == 0)
            return err_set(ERR_UNSUPPORTED, "pickle has a big-endian numpy array");
        return ERR_OK;
    }
    if (object->type == PK_NP_ARRAY && state->type == PK_TUPLE)
        return np_fill(p, object, state);
    return err_set(ERR_UNSUPPORTED, "pickle wants to set the insides of an object");
}

/* ---- the table ----------------------------------------------------------------------------------
 */

static const struct pk_callable callables[] = {
    {"collections", "OrderedDict", call_ordered_dict, DT_COUNT},
    {"torch._utils", "_rebuild_tensor_v2", call_tensor, DT_COUNT},
    {"torch._utils", "_rebuild_tensor", call_tensor, DT_COUNT},
    {"torch._utils", "_rebuild_parameter", call_parameter, DT_COUNT},
    {"torch", "Size", call_size, DT_COUNT},
    {"torch", "FloatStorage", NULL, DT_F32},
    {"torch", "HalfStorage", NULL, DT_F16},
    {"torch", "BFloat16Storage", NULL, DT_BF16},
    {"torch", "DoubleStorage", NULL, DT_F64},
    {"torch", "LongStorage", NULL, DT_I64},
    {"torch", "IntStorage", NULL, DT_I32},
    {"torch", "ByteStorage", NULL, DT_U8},
    {"torch", "BoolStorage", NULL, DT_U8},
    {"torch", "CharStorage", NULL, DT_U8},
    {"_codecs", "encode", call_encode, DT_COUNT},
    {"builtins", "bytes", call_bytes, DT_COUNT},
    {"__builtin__", "bytes", call_bytes, DT_COUNT},
    {"numpy", "dtype", call_np_dtype, DT_COUNT},
    {"numpy", "ndarray", NULL, DT_COUNT},
    {"numpy.core.multiarray", "scalar", call_np_scalar, DT_COUNT},
    {"numpy.core.multiarray", "_reconstruct", call_np_array, DT_COUNT},
    {"numpy._core.multiarray", "scalar", call_np_scalar, DT_COUNT},
    {"numpy._core.multiarray", "_reconstruct", call_np_array, DT_COUNT},
};

const struct pk_callable *pk_find_callable(const char *module, const char *name)
{
    for (size_t i = 0; i < sizeof callables / sizeof *callables; i++)
        if (strcmp(callables[i].module, module) == 0 && strcmp(callables[i].name, name) == 0)
            return &callables[i];
    return NULL;
}
