/* JSON values that are whole or absent: where memory runs out in the middle of one, *list or
 * *object is NULL after, and stays so. Both take `value`, and may be given NULL for either. */
#ifndef TV3S_BASE_WHOLE_H
#define TV3S_BASE_WHOLE_H

#include <jansson.h>

void whole_add(json_t **list, json_t *value); /* at its end */
void whole_put(json_t **object, const char *key, json_t *value);

#endif
