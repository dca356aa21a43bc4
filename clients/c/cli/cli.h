/* tv3s-client: what its commands share.
 *
 * Results for scripts go to standard output, one JSON object a line with --json; words and progress
 * for people to standard error. Exit status: 0, 1 for what failed, 2 for wrong arguments. */
#ifndef TV3S_CLIENT_CLI_H
#define TV3S_CLIENT_CLI_H

#include "clients/c/cli/feed.h"
#include "clients/c/tv3s_client.h"

#include <jansson.h>

enum { CLI_OK, CLI_FAILED, CLI_USAGE };

struct cli {
    struct tv3s *server;
    const char *command, *output, *id;
    struct tv3s_stream_options stream; /* its params are those of every command */
    enum feed_kind packets;
    double rate; /* frames a second; 0: as fast as answers come */
    bool json, quiet, keep, resume;
    char **args; /* what is no option */
    int count;
    const char *progress; /* of what the last was drawn, and when, in milliseconds */
    int64_t drawn;
};

int cmd_upload(struct cli *c);
int cmd_stream(struct cli *c);
int cmd_segment(struct cli *c);
int cmd_status(struct cli *c);
int cmd_state(struct cli *c); /* save and restore */
int cmd_end(struct cli *c);   /* reset and delete */

/* One line on standard error, and CLI_FAILED; NULL: tv3s_error(). */
int cli_error(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "name 12 of 34", on one line of a terminal, ten times a second at most; `last`: in any case, and
 * the line ends. Nothing with --quiet, or where standard error is no terminal. */
void cli_progress(struct cli *c, const char *name, int64_t done, int64_t total, bool last);

/* Before any other word on standard error: ends the line of progress, if one stands there. */
void cli_end_line(void);

/* One line of standard output, flushed; takes `o`. */
int cli_json(const struct cli *c, json_t *o);

#endif
