/* The daemon's parts together: opened in the order in which they need each other, kept while
 * signals say so, closed in an order that leaves nothing behind. The main thread. */
#ifndef TV3S_SERVER_RUN_H
#define TV3S_SERVER_RUN_H

#include "server/config.h"
#include "server/server.h"

/* All of opening that leaves nothing behind, here or to others: the settings with each other, what
 * files they name, the models. `s` is zeroed by the caller; server_close also after an error, where
 * s->settings_wrong tells whose it is. */
enum err server_settle(struct server *s, struct config *c);
/* That, and then the rest. */
enum err server_open(struct server *s, struct config *c);
/* Until SIGTERM or SIGINT, then drains. SIGHUP reloads; every second something is tidied up. A
 * device that failed ends it too: ERR_DEVICE, and the process ends within FAILED_SECONDS of that.
 */
enum err server_run(struct server *s, struct config *c);
void server_close(struct server *s);

/* Before any thread is started: these signals are taken by server_run alone. */
void server_block_signals(void);

#endif
