/* The safetensors reader, and what follows of a model file: metadata and shapes. */
#include "engine/arch_parts.h"
#include "engine/safetensors_parts.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct st_file *f)
{
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        size_t n = st_elements(t), at;
        float *values = malloc(n * sizeof *values + 1);
        if (values)
            st_to_f32(t, 0, n, values);
        free(values);
        st_all_finite(t, &at);
        if (st_find(f, t->name) != t)
            abort();
    }
}

/* What was read can be written, and reads the same. */
static void round_trip(const struct st_file *f)
{
    struct st_writer *w;
    struct st_file *again = NULL;
    void *buf = NULL;
    size_t len;
    if (st_writer_open(&w))
        return;
    enum err err = ERR_OK;
    for (size_t i = 0; !err && i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        err = st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
    if (!err && !st_write_memory(w, &buf, &len) &&
        (st_parse(buf, len, &again) || st_count(again) != st_count(f)))
        abort();
    st_close(again);
    free(buf);
    st_writer_close(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arch arch;
    struct st_file *f;
    if (st_parse(data, size, &f))
        return 0;
    read_all(f);
    round_trip(f);
    if (!arch_read(f, &arch))
        arch_check_shapes(&arch, f);
    arch_infer(f, &arch);
    st_close(f);
    return 0;
}
