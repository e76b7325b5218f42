/* The directory in which a runtime keeps what its sandboxes write. */
#ifndef OSB_STATE_H
#define OSB_STATE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "runtime/runtime/identity.h"

struct osb_state {
    char path[PATH_MAX]; /* absolute, without symbolic links */
    const char *name;    /* last part of path */
    bool persistent;     /* what is kept outlives the runtime */
    int parent;          /* descriptors of the directory it is in, */
    int dir;             /* of itself, */
    int lock;            /* of its lock, held as long as a process of the runtime lives, */
    int keep;            /* and of the directory of what outlives sandboxes: "volumes", "snapshots", "records" */
};

/*
 * Makes a new directory in `where` (NULL: TMPDIR, /var/tmp or /tmp, the first that will do), for this process only, and
 * removes those that dead runtimes left there. A given `where` belongs to this runtime alone as long as
 * one of its processes lives, and keeps what outlives sandboxes; else that goes with the new directory.
 * Errors are a sentence.
 */
bool osb_state_open(struct osb_state *state, const char *where, char *error, size_t size);

/* Moves a kept directory (`folder`/`name`) to where only its removal is left, under a name that osb_janitor_remove
 * takes. False with errno. */
bool osb_state_discard(const struct osb_state *state, const char *folder, const char *name, char *removable,
                       size_t size);

/* Makes the directory of a sandbox, with its private writable directories inside, owned by the identity, unless it is
 * to be `empty`. False with errno; what was made until then stays. */
bool osb_state_make_sandbox(const struct osb_state *state, const char *id, const struct osb_identity *identity,
                            bool empty);

/* The private writable directories of a sandbox, by their names in its root; NULL-terminated. */
extern const char *const osb_state_private_dirs[];

#endif
