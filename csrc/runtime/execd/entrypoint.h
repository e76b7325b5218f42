/* The command that a sandbox was made for: it runs beside execd, and its end is the sandbox's. */
#ifndef OSB_ENTRYPOINT_H
#define OSB_ENTRYPOINT_H

#include <stdbool.h>

#include "child.h"
#include "runtime/shared/evloop.h"

struct osb_entrypoint {
    struct osb_evloop *loop;
    int status; /* what execd exits with: as a shell reports the command's end; 0 while it runs */
};

/* Starts the command (a program looked up in PATH, and its arguments up to NULL) with execd's environment and without
 * output; the loop stops when it ends. When it can't be started, says why on `log_fd`, leaves 127 as the status and
 * returns false. */
bool osb_entrypoint_start(struct osb_entrypoint *entrypoint, struct osb_evloop *loop, struct osb_child_table *children,
                          const char *const *command, int log_fd);

#endif
