/* TRY(call): returns from the calling function with the call's error, if it has one. For functions
 * that have nothing to clean up. */
#ifndef TV3S_BASE_TRY_H
#define TV3S_BASE_TRY_H

#include "base/err.h"

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum err try_result = (call);                                                              \
        if (try_result != ERR_OK)                                                                  \
            return try_result;                                                                     \
    } while (0)

#endif
