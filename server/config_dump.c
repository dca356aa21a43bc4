/* The settings for readers: as JSON, as help, as the documented sample file. */
#include "server/config_table.h"

#include <math.h>
#include <stdlib.h>

static enum err write_json(json_t *object, FILE *to)
{
    char *text = object ? json_dumps(object, JSON_INDENT(4) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(object);
    if (!text)
        return err_set(ERR_NOMEM, "no memory for the configuration");
    bool ok = fprintf(to, "%s\n", text) > 0 && fflush(to) == 0;
    free(text);
    return ok ? ERR_OK : err_set(ERR_IO, "writing the configuration failed");
}

enum err config_dump(const struct config *c, FILE *to)
{
    json_t *object = json_object();
    for (int i = 0; i < settings_count; i++)
        json_object_set_new(object, settings[i].name, setting_json(c, &settings[i]));
    return write_json(object, to);
}

/* "64G", or "1000" where no unit divides it. */
static void format_size(double v, char text[32])
{
    static const char units[] = "\0KMGT";
    int unit = 0;
    while (v >= 1024 && fmod(v, 1024) == 0 && unit < 4) {
        v /= 1024;
        unit++;
    }
    snprintf(text, 32, "%.15g%c", v, units[unit]);
}

/* "1 to 64", "1K to 1T" or "true or false"; empty for text. */
static void describe_range(const struct setting *s, char *text, size_t size)
{
    char least[32], most[32];
    text[0] = '\0';
    if (s->type == TYPE_BOOL) {
        snprintf(text, size, "true or false");
    } else if (s->type == TYPE_SIZE) {
        format_size(s->min, least);
        format_size(s->max, most);
        snprintf(text, size, "%s to %s", least, most);
    } else if (s->type == TYPE_INT || s->type == TYPE_SECONDS) {
        snprintf(text, size, "%.15g to %.15g%s", s->min, s->max,
                 s->type == TYPE_INT ? "" : " seconds");
    }
}

void config_help(FILE *to)
{
    char flag[64], range[80];
    fputs("usage: tv3sd [--config FILE] [--SETTING VALUE]...\n\n"
          "  --config FILE   settings as JSON (also TV3SD_CONFIG); config/tv3sd.json is a sample\n"
          "  --model FILE    one model file, or NAME=FILE; may be repeated\n"
          "  --check         do all of a start that leaves nothing behind, and end; a setting that "
          "is\n"
          "                  wrong is exit status 2, at a start too, what else fails 1\n"
          "  --dump-config   print the settings in force as JSON\n"
          "  --sample-config print config/tv3sd.json: every setting with its default and help\n"
          "  -h, --help, --version\n\n"
          "Settings, in order of precedence: a flag --name, the environment TV3SD_NAME, the file.\n"
          "Lists are separated by commas (in the file: arrays), sizes may end in K, M, G or T (in "
          "the\n"
          "file as a string: \"64G\"), paths are relative to the working directory, those in the "
          "file\n"
          "too. Those marked * are taken up again at SIGHUP.\n\n",
          to);
    for (int i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        snprintf(flag, sizeof flag, "--%s", s->name);
        for (char *p = flag; *p; p++)
            *p = *p == '_' ? '-' : *p;
        describe_range(s, range, sizeof range);
        fprintf(to, "  %-20s%c %s\n", flag, setting_reloads(s) ? '*' : ' ', s->help);
        fprintf(to, "  %-20s  [%s]%s%s\n", "", s->value, *range ? "  " : "", range);
    }
}

enum err config_sample(FILE *to)
{
    struct config c = {0};
    json_t *object = json_object();
    enum err e = ERR_OK;
    for (int i = 0; !e && i < settings_count; i++) {
        const struct setting *s = &settings[i];
        char comment[72], range[80];
        e = setting_set(&c, s, s->value);
        describe_range(s, range, sizeof range);
        snprintf(comment, sizeof comment, "//%s", s->name);
        json_object_set_new(object, comment,
                            *range ? json_sprintf("%s (%s)", s->help, range)
                                   : json_string(s->help));
        json_object_set_new(object, s->name, setting_json(&c, s));
    }
    config_free(&c);
    if (!e)
        return write_json(object, to);
    json_decref(object);
    return e;
}
