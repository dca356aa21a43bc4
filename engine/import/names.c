#include "engine/import/names.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* '%' and '#' match a number; '%' counts from 0 there and from 1 here, '#' from 0 in both. What
 * follows the pattern, "weight" or "bias" or "running_mean", is copied. */
static const struct rule {
    const char *from, *to;
    enum part part;
} hugging_face[] = {
    {"segformer.encoder.patch_embeddings.%.proj.", "backbone.patch_embed%.proj.", PART_WHOLE},
    {"segformer.encoder.patch_embeddings.%.layer_norm.", "backbone.patch_embed%.norm.", PART_WHOLE},
    {"segformer.encoder.block.%.#.layer_norm_1.", "backbone.block%.#.norm1.", PART_WHOLE},
    {"segformer.encoder.block.%.#.layer_norm_2.", "backbone.block%.#.norm2.", PART_WHOLE},
    {"segformer.encoder.block.%.#.attention.self.query.", "backbone.block%.#.attn.q.", PART_WHOLE},
    {"segformer.encoder.block.%.#.attention.self.key.", "backbone.block%.#.attn.kv.", PART_FIRST},
    {"segformer.encoder.block.%.#.attention.self.value.", "backbone.block%.#.attn.kv.",
     PART_SECOND},
    {"segformer.encoder.block.%.#.attention.self.sr.", "backbone.block%.#.attn.sr.", PART_WHOLE},
    {"segformer.encoder.block.%.#.attention.self.layer_norm.", "backbone.block%.#.attn.norm.",
     PART_WHOLE},
    {"segformer.encoder.block.%.#.attention.output.dense.", "backbone.block%.#.attn.proj.",
     PART_WHOLE},
    {"segformer.encoder.block.%.#.mlp.dense1.", "backbone.block%.#.mlp.fc1.", PART_WHOLE},
    {"segformer.encoder.block.%.#.mlp.dwconv.dwconv.", "backbone.block%.#.mlp.dwconv.dwconv.",
     PART_WHOLE},
    {"segformer.encoder.block.%.#.mlp.dense2.", "backbone.block%.#.mlp.fc2.", PART_WHOLE},
    {"segformer.encoder.layer_norm.%.", "backbone.norm%.", PART_WHOLE},
    {"decode_head.linear_c.%.proj.", "decode_head.linear_c%.proj.", PART_WHOLE},
    {"decode_head.linear_fuse.", "decode_head.linear_fuse.conv.", PART_WHOLE},
    {"decode_head.batch_norm.", "decode_head.linear_fuse.bn.", PART_WHOLE},
    {"decode_head.classifier.", "decode_head.linear_pred.", PART_WHOLE},
};

/* Length of the name's part that matches, 0 for none; its numbers go to n[0] ('%') and n[1]. */
static size_t match(const char *pattern, const char *name, int n[2])
{
    const char *at = name;
    for (; *pattern; pattern++) {
        if (*pattern != '%' && *pattern != '#') {
            if (*at++ != *pattern)
                return 0;
            continue;
        }
        size_t digits = strspn(at, "0123456789");
        if (digits < 1 || digits > 4)
            return 0;
        n[*pattern == '#'] = atoi(at);
        at += digits;
    }
    return (size_t)(at - name);
}

static void expand(const char *to, const int n[2], const char *rest, char *out, size_t size)
{
    size_t used = 0;
    for (; *to && used < size; to++) {
        if (*to == '%' || *to == '#')
            used += (size_t)snprintf(out + used, size - used, "%d", *to == '%' ? n[0] + 1 : n[1]);
        else
            used += (size_t)snprintf(out + used, size - used, "%c", *to);
    }
    if (used < size)
        snprintf(out + used, size - used, "%s", rest);
}

enum naming names_tell(const char *name)
{
    return strncmp(name, "segformer.", 10) == 0 ? NAMING_HUGGING_FACE : NAMING_PUBLISHED;
}

static bool ends_with(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);
    return n >= t && strcmp(name + n - t, tail) == 0;
}

static bool begins_with(const char *name, const char *head)
{
    return strncmp(name, head, strlen(head)) == 0;
}

/* Counters and masks of training, classifiers of pre-training, other branches of the model. */
static bool is_unused(const char *name)
{
    return ends_with(name, ".num_batches_tracked") || ends_with(name, ".attn_mask") ||
           begins_with(name, "decode_head.conv_seg.") || begins_with(name, "backbone.head.") ||
           !(begins_with(name, "backbone.") || begins_with(name, "decode_head.") ||
             begins_with(name, "segformer."));
}

enum part names_map(enum naming naming, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s", name);
    if (is_unused(name))
        return PART_UNUSED;
    if (ends_with(name, ".relative_position_index"))
        return PART_INDEX;
    size_t rules = naming == NAMING_HUGGING_FACE ? sizeof hugging_face / sizeof *hugging_face : 0;
    for (size_t i = 0; i < rules; i++) {
        int n[2] = {0, 0};
        size_t len = match(hugging_face[i].from, name, n);
        if (!len)
            continue;
        expand(hugging_face[i].to, n, name + len, out, size);
        return hugging_face[i].part;
    }
    return PART_WHOLE;
}
