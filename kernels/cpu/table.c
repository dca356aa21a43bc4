/* The kernels of one instruction set as a table; dispatch.c chooses among the tables. */
#include "kernels/cpu/simd.h"

#define TEXT(x)   TEXT_(x)
#define TEXT_(x)  #x
#define ENTRY(op) .op = KERNEL(op),

extern const struct cpu_ops KERNEL(cpu_ops);
const struct cpu_ops KERNEL(cpu_ops) = {.name = TEXT(ISA), KERNELS(ENTRY)};
