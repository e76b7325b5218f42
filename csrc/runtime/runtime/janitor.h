/*
 * A process of its own that ends sandboxes and removes their directories: on demand, and all of them as soon as the
 * runtime is gone, whatever ended it.
 */
#ifndef OSB_JANITOR_H
#define OSB_JANITOR_H

#include <stdbool.h>
#include <sys/types.h>

#include "runtime/runtime/limits.h"

struct osb_janitor {
    int link; /* to the process; its end of file is the order to end everything. Watch it: readable means it died */
    pid_t pid;
};

/* Starts the janitor of the state directory `state` (descriptor `dir`, inside `parent`) and of the control groups; to
 * be called from the main thread before any other descriptor is opened that must not stay open. False with errno. */
bool osb_janitor_start(struct osb_janitor *janitor, int parent, const char *state, int dir,
                       const struct osb_cgroups *cgroups);

/* What a descriptor handed to the janitor tells. */
enum osb_janitor_kind {
    OSB_JANITOR_PROCESS = 'p', /* a pidfd: to be killed, and gone when readable */
    OSB_JANITOR_PIPE = 's'     /* the read end of a pipe that all processes of the sandbox hold: gone when hung up */
};

/* Hands over a copy of a descriptor of the sandbox whose directory is `name` (36 bytes at most). False: the janitor is
 * gone or memory is out. */
bool osb_janitor_add(const struct osb_janitor *janitor, const char *name, enum osb_janitor_kind kind, int fd);

/* Has the sandbox ended and its directory removed, in the background. */
bool osb_janitor_remove(const struct osb_janitor *janitor, const char *name);

/* Has everything ended and removed, and waits for it. */
void osb_janitor_finish(struct osb_janitor *janitor);

#endif
