/* Every operation that an engine calls: timed, counted, and, once for each shape, held against the
 * CPU backend's fp32 on the same operands. op_wrap.c puts it between engine and backend. */
#ifndef TV3S_TESTS_OP_TRACE_H
#define TV3S_TESTS_OP_TRACE_H

#include "kernels/backend.h"

#include <jansson.h>

enum operand_type { OPERAND_ACT, OPERAND_F32, OPERAND_BYTES /* of the host, not checked */ };
enum { OP_IN = 1, OP_OUT = 2 };

struct operand {
    const void *at; /* the backend's memory; NULL is allowed: an operand that is not there */
    size_t count;
    enum operand_type type;
    int use;
};

/* `be` runs the operations; check: a CPU backend in fp32, or NULL. Called again, it starts anew. */
void op_trace_open(struct backend *be, struct backend *check);

/* Around an operation. Its name tells shapes apart that deserve a line each; gflop: 0 where memory
 * is what counts. The operands are read until op_compare, or op_end that says no. */
void op_begin(const struct operand *o, int count, double gflop, const char *name, ...)
    __attribute__((format(printf, 4, 5)));
/* Whether the operation is to be checked: by the CPU backend's on op_host's operands, which may
 * write those with OP_OUT, and then op_compare. */
bool op_end(void);
void *op_host(int operand); /* fp32, 64-byte aligned; NULL for an operand that is not there */
void op_compare(void);

/* More that a checked operation read and wrote: what the device has now, as op_host. Between
 * op_begin and op_end, or after it. The caller frees it. */
float *op_download(const float *at, size_t count);
void op_compare_with(const float *device, const float *want, size_t count);
/* The operation's worst difference is that; for what is not numbers. */
void op_compare_as(const char *name, double far);
/* Whether this name has not been checked yet; op_begin .. op_end are where it asks. */
bool op_checking(void);

/* After a step: adds its marks up. */
void op_step_done(void);
/* Lines, dearest first; bandwidth: bytes/s, rate: GFLOP/s that the device can do, 0 unknown. */
json_t *op_report(int steps, double bandwidth, double rate);
/* The checks alone: whether all are within the bar of the backend's dtype, or `bar`, when not 0. */
bool op_checks_hold(double bar);

#endif
