/* The image `host`: the machine's own programs and the parts of /etc that they need, without anything private. */
#ifndef OSB_IMAGE_H
#define OSB_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "runtime/runtime/state.h"

/* Puts execd and an /etc of its own making into the state directory. Errors are a sentence. */
bool osb_image_prepare(const struct osb_state *state, const char *execd, char *error, size_t size);

/* Appends bubblewrap's NUL-terminated arguments that put the image together; `host_network` brings the machine's name
 * servers in. False when memory is out. */
bool osb_image_mounts(const struct osb_state *state, bool host_network, struct osb_buf *args);

/* Where execd is inside. */
#define OSB_IMAGE_EXECD "/.opensandbox/execd"

#endif
