/* Bilinear resizes as linear maps along one axis, and their composition (MODEL.md section 5).
 *
 * Each axis of a bilinear resize (align_corners = false, edges clamped) is a sparse matrix with two
 * entries a row; a chain of resizes is the product of such matrices, sparse again. Made once per
 * plan; kernels apply them. */
#ifndef TV3S_ENGINE_RESIZE_H
#define TV3S_ENGINE_RESIZE_H

#include "kernels/backend.h"

/* All three: ERR_NOMEM. */

/* src positions -> dst positions; taps is 1 when they are equal, else 2 (1 for src = 1). */
enum err resize_axis_bilinear(int src, int dst, struct resize_axis *out);

/* The map "first, then second": first->dst == second->src. */
enum err resize_axis_compose(const struct resize_axis *first, const struct resize_axis *second,
                             struct resize_axis *out);

/* Bilinear resizes through sizes[0] -> sizes[1] -> ... -> sizes[count - 1], as one map. */
enum err resize_axis_chain(const int *sizes, int count, struct resize_axis *out);

void resize_axis_free(struct resize_axis *a);

#endif
