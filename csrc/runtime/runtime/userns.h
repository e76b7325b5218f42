/* User namespaces for sandboxes. */
#ifndef OSB_USERNS_H
#define OSB_USERNS_H

#include <stddef.h>

#include "runtime/runtime/identity.h"

/*
 * Makes a user namespace with the ids of `identity`, owned by identity->uid, in which no further user namespaces can be
 * made. Returns its descriptor (close-on-exec, the caller's), or -1 with a sentence in `error` that says what to
 * install or set.
 */
int osb_userns_make(const struct osb_identity *identity, char *error, size_t size);

#endif
