/* Starting execd inside a sandbox, with bubblewrap. */
#ifndef OSB_ISOLATION_H
#define OSB_ISOLATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "runtime/runtime/identity.h"
#include "runtime/runtime/limits.h"
#include "runtime/runtime/state.h"
#include "runtime/runtime/volume.h"

struct osb_isolation {
    const struct osb_state *state;
    const char *bwrap;           /* its path */
    const char *id;              /* of the sandbox, whose directory is there already */
    const char *token;           /* the access token of execd */
    const json_t *env;           /* object of strings and nulls (null: not set), or NULL */
    const json_t *command;       /* array of strings to run beside execd, whose end is the sandbox's; or NULL */
    bool host_network;           /* shares the machine's network */
    bool proxy;                  /* the environment tells of the proxy inside */
    int listen_fd;               /* for execd; the caller's */
    struct osb_volumes *volumes; /* mapped where the runtime is root */
    const struct osb_limits *limits;
    const struct osb_cgroups *cgroups;
};

/* A sandbox under way. All descriptors are the caller's, close-on-exec and non-blocking. */
struct osb_isolated {
    pid_t monitor;  /* bubblewrap's process outside; to be waited for. It ends after all processes of the sandbox */
    int monitor_fd; /* its pidfd */
    int status_fd;  /* bubblewrap's JSON documents: {"child-pid": N …} */
    int life_fd;    /* execd ends when this is closed */
    int ready_fd;   /* end of file: execd has begun; ECONNRESET: it never will */
    int gate_fd;    /* what the sandbox is for begins when this is closed */
    int output_fd;  /* what bubblewrap and the command print on stderr; hung up when all are gone */
};

/* Before its start. */
extern const struct osb_isolated osb_isolated_none;

/* Must be called from the main thread, with whose end the sandbox dies. False with a sentence; nothing is left then. */
bool osb_isolation_start(const struct osb_isolation *spec, const struct osb_identity *identity,
                         struct osb_isolated *started, char *error, size_t size);

/* Sends a signal to every process of the sandbox whose first process is `init`, of our pid namespace, with the pidfd
 * `init_fd`. True when all got it. */
bool osb_isolation_signal(pid_t init, int init_fd, int signal);

#endif
