#include "server/priority.h"

#include <sys/resource.h>

enum { NICER = 5 }; /* a third of the weight */

void priority_lower(void)
{
    int nice = getpriority(PRIO_PROCESS, 0); /* on Linux: of the thread */
    setpriority(PRIO_PROCESS, 0, nice + NICER);
}
