#include "engine/import/labels.h"
#include "engine/arch_parts.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_CONFIG = 1 << 20 };

static bool is_list(const struct pk_value *v)
{
    return v && (v->type == PK_LIST || v->type == PK_TUPLE);
}

static bool names(const struct pk_value *list, struct arch *a)
{
    if (list->items.count != (size_t)a->classes)
        return false;
    for (int i = 0; i < a->classes; i++) {
        const struct pk_value *name = list->items.at[i];
        if (name->type == PK_STRING) /* one that is no line of text keeps "class 7" */
            arch_set_class_name(a, i, name->text.at, name->text.len);
    }
    return true;
}

static bool colours(const struct pk_value *list, struct arch *a)
{
    uint8_t rgb[ARCH_MAX_CLASSES][3];
    if (list->items.count != (size_t)a->classes)
        return false;
    for (int i = 0; i < a->classes; i++) {
        const struct pk_value *row = list->items.at[i];
        if (!is_list(row) || row->items.count != 3)
            return false;
        for (int c = 0; c < 3; c++) {
            const struct pk_value *v = row->items.at[c];
            double level = v->type == PK_INT     ? (double)v->integer
                           : v->type == PK_FLOAT ? v->real
                                                 : -1;
            if (!(level >= 0 && level <= 255))
                return false;
            rgb[i][c] = (uint8_t)level;
        }
    }
    memcpy(a->palette, rgb, (size_t)a->classes * 3);
    return true;
}

bool labels_from_pickle(const struct pk_value *root, struct arch *a, const char **note)
{
    const struct pk_value *meta = pickle_get(root, "meta");
    const struct pk_value *newer = pickle_get(meta, "dataset_meta");
    const struct pk_value *classes = pickle_get(meta, "CLASSES"), *palette;
    if (!classes)
        classes = pickle_get(newer, "classes");
    palette = pickle_get(meta, "PALETTE");
    if (!palette)
        palette = pickle_get(newer, "palette");
    if (is_list(palette) && !colours(palette, a))
        *note = "the palette in the checkpoint does not fit its classes; colours are made up";
    if (is_list(classes) && !names(classes, a))
        *note = "the class names in the checkpoint are not one a class; they are ignored";
    return is_list(classes) || is_list(palette);
}

void labels_from_config(const char *path, struct arch *a, const char **note)
{
    char config[PATH_MAX], *text = NULL;
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash + 1 - path) : 0;
    json_t *root = NULL;
    if (snprintf(config, sizeof config, "%.*sconfig.json", folder, path) >= (int)sizeof config)
        return;
    FILE *file = fopen(config, "rb");
    if (!file)
        return;
    text = malloc(MAX_CONFIG);
    size_t len = text ? fread(text, 1, MAX_CONFIG, file) : 0;
    if (len && len < MAX_CONFIG)
        root = json_loadb(text, len, 0, NULL);
    json_t *map = json_object_get(root, "id2label");
    if (!root)
        *note = "the config.json beside the checkpoint cannot be read; it is ignored";
    else if (map && json_object_size(map) != (size_t)a->classes)
        *note = "the class names in config.json are not one a class; they are ignored";
    else
        for (int i = 0; map && i < a->classes; i++) {
            char key[16];
            snprintf(key, sizeof key, "%d", i);
            const json_t *name = json_object_get(map, key);
            if (json_is_string(name))
                arch_set_class_name(a, i, json_string_value(name), json_string_length(name));
        }
    json_decref(root);
    free(text);
    fclose(file);
}
