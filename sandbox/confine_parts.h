/* Confinement from inside: confine.c, confine_device.c. */
#ifndef TV3S_SANDBOX_CONFINE_PARTS_H
#define TV3S_SANDBOX_CONFINE_PARTS_H

#include "sandbox/confine.h"

#include <seccomp.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* As far as the limits that there are allow it. */
enum err confine_limit(int what, rlim_t soft, rlim_t hard);

/* Of mmap and mprotect: memory that cannot be run. */
#define CONFINE_NO_CODE SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)

/* A filter of what every decoding process may call, and what `add_more` adds, mmap too; `threads`:
 * for those that there are too. */
enum err confine_calls(int (*add_more)(scmp_filter_ctx filter), bool threads);

#endif
