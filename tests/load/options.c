#include "tests/load/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static bool read_clip(const struct options *o, struct clip *clip, char **path, int count)
{
    for (int i = 0; i < count; i++)
        if (clip_add(clip, path[i], o->masks, mask_format_extension(o->format))) {
            fprintf(stderr, "stream_load: %s\n", err_text());
            return false;
        }
    return count > 0;
}

static bool in_range(const struct options *o)
{
    return o->port > 0 && o->streams > 0 && o->streams <= 10000 && o->seconds > 0 &&
           o->seconds <= 3600 && o->credit > 0 && o->credit <= CREDIT_MAX && o->every >= 0 &&
           !(o->flood && o->masks);
}

static bool usage(void)
{
    fputs("usage: stream_load --port P [--ca FILE] [--streams N] [--credit N] [--rate FPS]\n"
          "       [--warmup S] [--seconds S [--every S] | --frames N] [--flood] [--prefix ID]\n"
          "       [--format F] [--masks FOLDER] IMAGE...\n",
          stderr);
    return false;
}

bool options_read(struct options *o, struct clip *clip, int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'},    {"streams", 1, NULL, 'n'}, {"frames", 1, NULL, 'f'},
        {"credit", 1, NULL, 'c'},  {"rate", 1, NULL, 'r'},    {"warmup", 1, NULL, 'w'},
        {"seconds", 1, NULL, 's'}, {"flood", 0, NULL, 'F'},   {"prefix", 1, NULL, 'x'},
        {"format", 1, NULL, 'o'},  {"every", 1, NULL, 'e'},   {"ca", 1, NULL, 'C'},
        {"masks", 1, NULL, 'm'},   {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p':
            o->port = atoi(optarg);
            break;
        case 'n':
            o->streams = atoi(optarg);
            break;
        case 'f':
            o->frames = atoi(optarg);
            break;
        case 'c':
            o->credit = atoi(optarg);
            break;
        case 'r':
            o->rate = atof(optarg);
            break;
        case 'w':
            o->warmup = atof(optarg);
            break;
        case 's':
            o->seconds = atof(optarg);
            break;
        case 'F':
            o->flood = true;
            break;
        case 'x':
            o->prefix = optarg;
            break;
        case 'o':
            if (mask_format_parse(optarg, &o->format))
                return usage();
            break;
        case 'e':
            o->every = atof(optarg);
            break;
        case 'C':
            o->ca = optarg;
            break;
        case 'm':
            o->masks = optarg;
            break;
        default:
            return usage();
        }
    }
    if (in_range(o) && optind < argc)
        return read_clip(o, clip, argv + optind, argc - optind);
    return usage();
}
