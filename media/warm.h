/* Before a process forks: what FFmpeg makes once for all decoders, and what libc reads from files
 * (the time zone) the first time that it is asked. */
#ifndef TV3S_MEDIA_WARM_H
#define TV3S_MEDIA_WARM_H

void media_warm(void);

#endif
