/* The process that forks the decoding processes.
 *
 * It is the daemon's own program started afresh, with an empty environment, no descriptor but one
 * socket to the daemon and nothing in memory but FFmpeg with its tables made: no key, no address of
 * anything in the daemon. It reads nothing that comes from outside, and has one thread. Each child
 * is forked from it as it is. It reaps them. When the daemon is gone it ends; when it is gone, the
 * kernel ends them. */
#ifndef TV3S_SANDBOX_ZYGOTE_H
#define TV3S_SANDBOX_ZYGOTE_H

#include <stdbool.h>

#define ZYGOTE_NAME "tv3sd-decoders" /* argv[0] */
enum { ZYGOTE_SOCKET = 3 };

/* First of all in main() of whatever opens a sandbox: whether this process is to be the zygote. */
bool zygote_wanted(int argc, char **argv);
/* Then: main's result. */
int zygote_main(void);

#endif
