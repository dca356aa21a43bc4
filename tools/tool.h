/* What every command of tv3s shares.
 *
 * A command is `int cmd_NAME(int argc, char **argv)`: argv[0] is "tv3s NAME" (so getopt_long's own
 * messages read "tv3s NAME: ..."), the result is the exit status. `--help` prints to stdout and
 * returns 0; it is what `tv3s help NAME` calls. Errors are one line on stderr. */
#ifndef TV3S_TOOLS_TOOL_H
#define TV3S_TOOLS_TOOL_H

enum { TOOL_OK = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

int cmd_convert(int argc, char **argv) __attribute__((weak));
int cmd_info(int argc, char **argv) __attribute__((weak));
int cmd_segment(int argc, char **argv) __attribute__((weak));
int cmd_logits(int argc, char **argv) __attribute__((weak));
int cmd_eval(int argc, char **argv) __attribute__((weak));
int cmd_bench(int argc, char **argv) __attribute__((weak));
int cmd_key(int argc, char **argv) __attribute__((weak));

/* Prints "tv3s NAME: text"; `name` is argv[0]. Returns TOOL_FAILED. To report an enum err:
 * return tool_error(argv[0], "%s", err_text()). */
int tool_error(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for wrong arguments, with a pointer to --help. Returns TOOL_USAGE. */
int tool_usage(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for a value that an option cannot have, with what the option of that name takes. */
int tool_option(const char *command, const char *option, const char *value);

#endif
