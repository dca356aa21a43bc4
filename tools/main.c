/* tv3s: the tool without a server. A table of commands; each lives in cmd_NAME.c. */
#include "base/nearest.h"
#include "base/openmp.h"
#include "base/version.h"
#include "tools/tool.h"

#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name, *full;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"convert", "tv3s convert", cmd_convert, "make a model file of a published checkpoint"},
    {"info", "tv3s info", cmd_info, "describe a model as JSON"},
    {"segment", "tv3s segment", cmd_segment, "label a video, an image or a folder of images"},
    {"logits", "tv3s logits", cmd_logits, "logits and masks of raw frames, to check arithmetic"},
    {"eval", "tv3s eval", cmd_eval, "mIoU, accuracy and video consistency of label images"},
    {"key", "tv3s key", cmd_key, "make an API key of the daemon"},
    {"bench", "tv3s bench", cmd_bench, "measure frames per second"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const struct command *find(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

static int run(const struct command *c, int argc, char **argv)
{
    argv[0] = (char *)c->full;
    int status = c->run(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror(c->full);
        return status != TOOL_OK ? status : TOOL_FAILED;
    }
    return status;
}

static int usage(FILE *to, int status)
{
    fprintf(to, "usage: tv3s COMMAND [ARGUMENTS]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\n'tv3s help COMMAND' shows its options. 'tv3s --version' prints the version.\n");
    return status;
}

static int unknown(const char *name)
{
    struct nearest n = nearest_to(name);
    for (int i = 0; i < COMMANDS; i++)
        nearest_offer(&n, commands[i].name);
    if (!nearest_name(&n))
        return tool_usage("tv3s", "there is no command '%s'", name);
    return tool_usage("tv3s", "there is no command '%s'; did you mean '%s'?", name,
                      nearest_name(&n));
}

int main(int argc, char **argv)
{
    openmp_spin_less(argv);
    if (argc < 2)
        return usage(stderr, TOOL_USAGE);
    if (strcmp(argv[1], "--version") == 0)
        return puts("tv3s " TV3S_VERSION) < 0 || fflush(stdout) != 0;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return usage(stdout, TOOL_OK);
    if (strcmp(argv[1], "help") == 0 && argc == 2)
        return usage(stdout, TOOL_OK);
    const char *name = strcmp(argv[1], "help") == 0 ? argv[2] : argv[1];
    const struct command *c = find(name);
    if (!c || !c->run)
        return unknown(name);
    if (name == argv[2])
        return run(c, 2, (char *[]){NULL, "--help", NULL});
    return run(c, argc - 1, argv + 1);
}
