/* What systemd is told: the datagram protocol of sd_notify(3), and nothing without it. */
#ifndef TV3S_SERVER_NOTIFY_H
#define TV3S_SERVER_NOTIFY_H

#include <stdint.h>

/* "READY=1", "STOPPING=1", "WATCHDOG=1", lines separated by newlines. */
void notify(const char *state);

/* Nanoseconds within which systemd wants a WATCHDOG=1; 0: it wants none. */
uint64_t notify_watchdog(void);

#endif
