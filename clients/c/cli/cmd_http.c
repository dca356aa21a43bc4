/* tv3s-client upload, segment, status, save, restore, reset, delete: the calls over HTTP. */
#include "clients/c/cli/cli.h"

#include <stdio.h>
#include <string.h>

static bool sent(void *cli, int64_t done, int64_t total)
{
    cli_progress(cli, "bytes sent:", done, total, done == total);
    return true;
}

static bool labelled(void *cli, int64_t done, int64_t total)
{
    cli_progress(cli, "frames labelled:", done, total, done == total);
    return true;
}

static bool fetched(void *cli, int64_t done, int64_t total)
{
    cli_progress(cli, "bytes fetched:", done, total, done == total);
    return true;
}

int cmd_upload(struct cli *c)
{
    static const char *const states[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    struct tv3s_job job;
    if (!c->output && !c->stream.params.webhook)
        return cli_error(c, "-o OUT is needed, or --webhook URL");
    if (tv3s_upload(c->server, c->args[0], &c->stream.params, sent, c, &job))
        return cli_error(c, NULL);
    if (c->json && cli_json(c, json_pack("{s:s, s:s}", "id", job.id, "state", states[job.state])))
        return CLI_FAILED;
    if (!c->output)
        return c->json || printf("/v1/videos/%s\n", job.id) > 0 ? CLI_OK : CLI_FAILED;
    if (tv3s_wait(c->server, job.id, labelled, c, &job))
        return cli_error(c, NULL);
    if (job.state != TV3S_SUCCEEDED)
        return cli_error(c, "%s: the upload %s: %s", job.id,
                         job.state == TV3S_FAILED ? "failed" : "was cancelled", job.error);
    if (job.warning[0])
        cli_error(c, "warning: %s: %s", c->args[0], job.warning);
    if (tv3s_masks(c->server, job.id, c->output, fetched, c))
        return cli_error(c, NULL);
    if (!c->keep && tv3s_delete_job(c->server, job.id))
        return cli_error(c, NULL);
    return cli_json(c, json_pack("{s:s, s:s, s:I, s:s, s:s*}", "id", job.id, "state",
                                 states[job.state], "frames", (json_int_t)job.done, "output",
                                 c->output, "warning", job.warning[0] ? job.warning : NULL));
}

int cmd_segment(struct cli *c)
{
    if (!c->output)
        return cli_error(c, "-o MASK is needed");
    if (tv3s_segment(c->server, c->args[0], &c->stream.params, c->output))
        return cli_error(c, NULL);
    return CLI_OK;
}

/* What there is at a path, as it comes. */
int cmd_status(struct cli *c)
{
    const char *json;
    if (tv3s_get(c->server, c->count ? c->args[0] : "/v1/server", &json))
        return cli_error(c, NULL);
    puts(json);
    return fflush(stdout) || ferror(stdout) ? cli_error(c, "cannot write: %m") : CLI_OK;
}

int cmd_state(struct cli *c)
{
    bool save = strcmp(c->command, "save") == 0;
    enum tv3s_result r = save ? tv3s_save_state(c->server, c->args[0], c->args[1])
                              : tv3s_restore_state(c->server, c->args[0], c->args[1]);
    return r ? cli_error(c, NULL) : CLI_OK;
}

int cmd_end(struct cli *c)
{
    static const char videos[] = "/v1/videos/";
    const char *id = c->args[0];
    enum tv3s_result r;
    if (strcmp(c->command, "reset") == 0)
        r = tv3s_reset(c->server, id);
    else if (strncmp(id, videos, strlen(videos)) == 0)
        r = tv3s_delete_job(c->server, id + strlen(videos));
    else
        r = tv3s_delete_stream(c->server, id);
    return r ? cli_error(c, NULL) : CLI_OK;
}
