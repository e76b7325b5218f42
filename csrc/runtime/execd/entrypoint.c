#include "entrypoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "environment.h"

static void ended(void *context, int status)
{
    struct osb_entrypoint *entrypoint = context;
    entrypoint->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    osb_evloop_stop(entrypoint->loop);
}

bool osb_entrypoint_start(struct osb_entrypoint *entrypoint, struct osb_evloop *loop, struct osb_child_table *children,
                          const char *const *command, int log_fd)
{
    char error[OSB_CHILD_ERROR_SIZE] = "not found in PATH";
    char *program = strchr(command[0], '/') ? strdup(command[0]) : osb_environment_find_program(command[0]);
    char **environment = osb_environment_merge(NULL);
    const struct osb_child_spec spec = {.program = program,
                                        .argv = command,
                                        .environment = environment,
                                        .output = STDERR_FILENO,
                                        .error = STDERR_FILENO};
    *entrypoint = (struct osb_entrypoint){.loop = loop};
    bool started = program && environment && osb_child_start(children, &spec, ended, entrypoint, error) > 0;
    if (!started) {
        entrypoint->status = 127;
        dprintf(log_fd, "opensandbox-execd: the entrypoint %s can't be started: %s\n", command[0], error);
    }
    osb_environment_release(environment);
    free(program);
    return started;
}
