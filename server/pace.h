/* Whether a client takes what it is sent.
 *
 * A socket that takes a byte now and then is no idle one for the libraries, so whoever reads so
 * slowly would keep an answer, and its memory, for ever. While more is to be sent than the client
 * takes, it must take PACE_LEAST bytes, or all there is, in each time limit: what senders must
 * bring. Bytes count when its side has acknowledged them. Of a UNIX socket, where a proxy of this
 * machine reads, that is not known, and the libraries' limits alone hold. */
#ifndef TV3S_SERVER_PACE_H
#define TV3S_SERVER_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { PACE_LEAST = 16 << 10 };

/* Of one socket; begins as zeros. */
struct pace {
    uint64_t since; /* clock_ns of the last look at which the pace was kept; 0: nothing waited */
    uint64_t taken; /* bytes, until then */
};

/* Whether the socket tells what its other side has taken. */
bool pace_known(int fd);

/* Called about once a second: false when the client has been too slow for `seconds`. */
bool pace_kept(struct pace *p, int fd, uint64_t now, double seconds);

/* The connection ends as a reset: what the client has not taken is not kept for it. */
void pace_reset(int fd);

#endif
