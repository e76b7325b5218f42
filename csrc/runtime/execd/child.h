/* Starting processes and learning of their end. */
#ifndef OSB_CHILD_H
#define OSB_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "runtime/shared/evloop.h"

struct osb_child_table;

#define OSB_CHILD_ERROR_SIZE 512

struct osb_child_spec {
    const char *program; /* its path */
    const char *const *argv;
    char *const *environment;
    const char *cwd;    /* NULL: that of execd */
    int input;          /* descriptor for its stdin; 0: /dev/null */
    int output, error;  /* descriptors for its stdout and stderr */
    bool terminal;      /* stdin is a terminal, which becomes that of a session of its own */
    const int *extra;   /* descriptors that it gets as 7, 8, …; all others are closed in it */
    size_t extra_count; /* at most OSB_CHILD_EXTRA_MAX */
    bool set_ids;       /* run as uid and gid, with the groups given */
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    size_t group_count;
};

/* First number that extra descriptors get. */
#define OSB_CHILD_EXTRA_FD 7
#define OSB_CHILD_EXTRA_MAX 4

/* Takes over SIGCHLD of the process (it must be blocked), becomes the reaper of orphans, and raises the limit of open
 * files for itself (the processes started get the one that was). NULL when something is out. */
struct osb_child_table *osb_child_table_new(struct osb_evloop *loop);

/* Kills every process below this one, waits for their end, and frees the table; no callbacks are called. */
void osb_child_table_free(struct osb_child_table *table);

/* Starts a process in a group of its own. `ended` is told its wait status, once, when it has ended (its group may live
 * on). Returns its pid, or -1 with a sentence in `error`. */
pid_t osb_child_start(struct osb_child_table *table, const struct osb_child_spec *spec,
                      void (*ended)(void *context, int status), void *context, char error[OSB_CHILD_ERROR_SIZE]);

/* Stops being told of the process's end, which may have come already. */
void osb_child_forget(struct osb_child_table *table, pid_t pid);

/* Sends SIGINT to the children of the process, their children and so on, but not to itself. */
void osb_child_interrupt_below(pid_t pid);

/* Number of processes started that have not ended. */
size_t osb_child_count(const struct osb_child_table *table);

/* Wait status as Go words it: "exit status 7", "signal: killed". */
void osb_child_describe(int status, char out[64]);

/* Exit code, or -1 when a signal ended it. */
int osb_child_exit_code(int status);

#endif
