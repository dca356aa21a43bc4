/* A backend's table with every operation traced (op_trace.h). */
#ifndef TV3S_TESTS_OP_WRAP_H
#define TV3S_TESTS_OP_WRAP_H

#include "kernels/backend.h"

/* Puts the traced table into `be`; what is opened through it (linears, attentions) is known by its
 * shape. check: as in op_trace_open. */
void op_wrap(struct backend *be, struct backend *check);
/* After a step: compares what has come down only now. */
void op_wrap_step_done(void);

#endif
