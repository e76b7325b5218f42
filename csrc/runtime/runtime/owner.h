/* Whom the embedded runtime lives for: the process that started it. */
#ifndef OSB_OWNER_H
#define OSB_OWNER_H

#include <stdbool.h>

#include "runtime/shared/evloop.h"

struct osb_owner {
    struct osb_evloop *loop;
    struct osb_watch *pipe_watch;
    struct osb_watch *process_watch;
    int process; /* pidfd, or -1 */
};

/* To be called first of all: remembers the parent, before it can be gone. */
void osb_owner_open(struct osb_owner *owner);

/* Stops the loop when standard input ends (its writer is gone) or the owner's process does; either may come alone,
 * because other processes may hold the pipe open. False with errno: standard input is no pipe. */
bool osb_owner_watch(struct osb_owner *owner, struct osb_evloop *loop);

void osb_owner_close(struct osb_owner *owner);

#endif
