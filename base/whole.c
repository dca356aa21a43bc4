#include "base/whole.h"

static void keep_if(json_t **all, int result)
{
    if (result == 0)
        return;
    json_decref(*all);
    *all = NULL;
}

void whole_add(json_t **list, json_t *value)
{
    keep_if(list, json_array_append_new(*list, value));
}

void whole_put(json_t **object, const char *key, json_t *value)
{
    keep_if(object, json_object_set_new(*object, key, value));
}
