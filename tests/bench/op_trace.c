#include "tests/bench/op_trace.h"
#include "tests/bench/op_clock.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SLOTS = 512, OPERANDS = 16 };

/* |device - cpu| over the deviation of the operation's output, beside the rounding of the output.
 */
#define BAR_F32  1e-4
#define BAR_BF16 0x1p-6

static struct slot {
    char name[64];
    double seconds, gflop, bytes;
    long calls;
    double far; /* the worst difference; -1: not checked */
} slots[SLOTS];
static int slot_count;

static struct {
    struct backend *be, *check;
    struct slot *slot;
    const struct operand *operand;
    int operands;
    bool live, checking;
    float *host[OPERANDS], *device[OPERANDS]; /* what the CPU gets; what the device made */
    struct slot **mark;                       /* marks 2 i and 2 i + 1 are of mark[i] */
    size_t marks, places;
} t;

void op_trace_open(struct backend *be, struct backend *check)
{
    t.be = be;
    t.check = check;
    t.marks = 0;
    slot_count = 0;
    memset(slots, 0, sizeof slots);
    op_clock_open(be);
}

static struct slot *slot_of(const char *name)
{
    int i = 0;
    while (i < slot_count && strcmp(slots[i].name, name) != 0)
        i++;
    if (i == SLOTS)
        abort();
    if (i == slot_count) {
        snprintf(slots[i].name, sizeof slots[i].name, "%s", name);
        slots[slot_count++].far = -1;
    }
    return &slots[i];
}

static size_t elem(enum operand_type type)
{
    return type == OPERAND_BYTES ? 1 : type == OPERAND_F32 ? 4 : backend_elem(t.be);
}

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p)
        abort();
    return p;
}

/* An operand as it is on the device now, in fp32. */
static float *fetch(const struct operand *o)
{
    float *f = room(o->count * sizeof *f);
    bool bf16 = o->type == OPERAND_ACT && t.be->dtype == DT_BF16;
    char *raw = (char *)f + (bf16 ? o->count * 2 : 0); /* the upper half; unpacked from below */
    if (t.be->ops->download(t.be, raw, o->at, o->count * elem(o->type)) != ERR_OK) {
        fprintf(stderr, "%s: %s\n", t.slot->name, err_text());
        exit(1);
    }
    for (size_t i = 0; bf16 && i < o->count; i++) {
        uint16_t v;
        memcpy(&v, raw + 2 * i, 2);
        f[i] = bf16_to_f32(v);
    }
    return f;
}

float *op_download(const float *at, size_t count)
{
    return fetch(&(struct operand){at, count, OPERAND_F32, OP_IN});
}

bool op_checking(void)
{
    return t.live && t.checking;
}

void op_begin(const struct operand *o, int count, double gflop, const char *name, ...)
{
    char text[64];
    va_list args;
    t.live = op_clock_live(t.be);
    if (!t.live)
        return;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    t.slot = slot_of(text);
    t.operand = o;
    t.operands = count;
    t.checking = t.check && t.slot->far < 0;
    t.slot->gflop += gflop;
    t.slot->calls++;
    for (int i = 0; i < count; i++) {
        double bytes = o[i].at ? (double)o[i].count * (double)elem(o[i].type) : 0;
        t.slot->bytes += bytes * ((o[i].use & OP_IN ? 1 : 0) + (o[i].use & OP_OUT ? 1 : 0));
        t.host[i] = t.device[i] = NULL;
        if (t.checking && o[i].at && o[i].type != OPERAND_BYTES)
            t.host[i] =
                o[i].use & OP_IN ? fetch(&o[i]) : memset(room(o[i].count * 4), 0, o[i].count * 4);
    }
    t.mark = op_clock_room(t.mark, &t.places, t.marks, sizeof(struct slot *));
    t.mark[t.marks] = t.slot;
    op_clock_mark(t.be, 2 * t.marks);
}

bool op_end(void)
{
    if (!t.live)
        return false;
    op_clock_mark(t.be, 2 * t.marks++ + 1);
    for (int i = 0; t.checking && i < t.operands; i++)
        if (t.operand[i].use & OP_OUT && t.host[i])
            t.device[i] = fetch(&t.operand[i]);
    return t.checking;
}

void *op_host(int operand)
{
    return t.host[operand];
}

void op_compare_with(const float *device, const float *want, size_t count)
{
    double square = 0, far = 0;
    for (size_t i = 0; i < count; i++)
        square += (double)want[i] * want[i] / (double)count;
    for (size_t i = 0; i < count; i++) {
        double size = sqrt(square) + fabs((double)want[i]);
        double d = fabs((double)device[i] - want[i]);
        if (!isfinite(d) || d > far * size)
            far = isfinite(d) && size > 0 ? d / size : INFINITY;
    }
    t.slot->far = far > t.slot->far ? far : t.slot->far;
}

void op_compare(void)
{
    for (int i = 0; i < t.operands; i++) {
        if (t.device[i])
            op_compare_with(t.device[i], t.host[i], t.operand[i].count);
        free(t.device[i]);
        free(t.host[i]);
    }
}

void op_compare_as(const char *name, double far)
{
    struct slot *s = slot_of(name);
    s->far = far > s->far ? far : s->far;
}

void op_step_done(void)
{
    for (size_t i = 0; i < t.marks; i++)
        t.mark[i]->seconds += op_clock_between(t.be, 2 * i, 2 * i + 1);
    t.marks = 0;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct slot *)a)->seconds, y = ((const struct slot *)b)->seconds;
    return (x < y) - (x > y);
}

json_t *op_report(int steps, double bandwidth, double rate)
{
    json_t *list = json_array();
    qsort(slots, (size_t)slot_count, sizeof *slots, by_time);
    for (int i = 0; i < slot_count; i++) {
        const struct slot *s = &slots[i];
        double per_second = s->seconds > 0 ? 1 / s->seconds : 0;
        json_t *line = json_pack("{s:s, s:f, s:I}", "op", s->name, "ms", 1e3 * s->seconds / steps,
                                 "calls", (json_int_t)(s->calls / steps));
        json_object_set_new(line, "gbytes_per_s", json_real(1e-9 * s->bytes * per_second));
        if (bandwidth > 0)
            json_object_set_new(line, "of_bandwidth", json_real(s->bytes * per_second / bandwidth));
        if (s->gflop > 0) {
            json_object_set_new(line, "gflops", json_real(s->gflop * per_second));
            if (rate > 0)
                json_object_set_new(line, "of_rate", json_real(s->gflop * per_second / rate));
        }
        if (s->far >= 0)
            json_object_set_new(line, "far", isfinite(s->far) ? json_real(s->far) : json_null());
        json_array_append_new(list, line);
    }
    return list;
}

bool op_checks_hold(double bar)
{
    bool hold = true;
    bar = bar > 0 ? bar : t.be->dtype == DT_BF16 ? BAR_BF16 : BAR_F32;
    for (int i = 0; i < slot_count; i++)
        if (!(slots[i].far <= bar)) {
            fprintf(stderr, "%s: %g of the output's size from the CPU's, over %g\n", slots[i].name,
                    slots[i].far, bar);
            hold = false;
        }
    return hold;
}
