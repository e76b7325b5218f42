/* Copies a directory tree; no descriptor of it leads out, whatever is in it. */
#ifndef OSB_TREE_COPY_H
#define OSB_TREE_COPY_H

#include <limits.h>
#include <stdbool.h>

#include "runtime/runtime/identity.h"

struct osb_tree_copy {
    int from; /* directories */
    int to;
    const struct osb_identity *owner_from; /* whose ids on the machine the files of `from` have; NULL: ids as inside */
    const struct osb_identity *owner_to;   /* the same for `to` */
    char failed[NAME_MAX + 1];             /* once it failed: the name that could not be copied, and why (errno) */
    int code;
};

/* Copies `name` with all below it; the copy must not be there yet. False with copy->failed and ->code. */
bool osb_tree_copy(struct osb_tree_copy *copy, const char *name);

#endif
