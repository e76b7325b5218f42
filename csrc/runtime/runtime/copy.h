/* Copies of what sandboxes wrote, made by a process of its own so that the loop goes on. */
#ifndef OSB_COPY_H
#define OSB_COPY_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/runtime/identity.h"
#include "runtime/shared/evloop.h"

struct osb_copy;

struct osb_copy_spec {
    int from; /* directories; needed only during the call */
    int to;
    const char *const *names;         /* what is copied from the one into the other, NULL-terminated */
    const struct osb_identity *owner; /* a sandbox's ids, of the runtime's user that copies as its root, */
    bool from_sandbox; /* or of a runtime of root: ids of `from` are the sandbox's on the machine, those */
                       /* of `to` as they are inside; else the other way round */
};

/* `error`: a sentence, or NULL when all was copied. */
typedef void (*osb_copy_done)(void *context, const char *error);

/* Begins to copy: files (sharing their blocks where the file system can), directories, symbolic links and FIFOs, with
 * their owners, permissions and times. Nobody may be writing to them. To be called from the main thread. NULL with
 * errno; else `done` is called once, later. */
struct osb_copy *osb_copy_start(struct osb_evloop *loop, const struct osb_copy_spec *spec, osb_copy_done done,
                                void *context);

/* Ends a copy that is under way; `done` is not called. */
void osb_copy_cancel(struct osb_copy *copy);

#endif
