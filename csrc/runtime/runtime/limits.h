/* What a sandbox may use of the machine: control groups where they can be made, else limits per process. */
#ifndef OSB_LIMITS_H
#define OSB_LIMITS_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/runtime/rules.h"

struct osb_limits {
    int64_t cpu;    /* thousandths of a processor; 0: all */
    int64_t memory; /* bytes; 0: all */
};

/* Reads resourceLimits ("500m", "2", "512Mi"); NULL: none. Other names are passed over. False with the API's error. */
bool osb_limits_read(struct osb_limits *limits, const json_t *given, struct osb_rule_error *error);

enum { OSB_CGROUP_CPU, OSB_CGROUP_MEMORY, OSB_CGROUP_PIDS, OSB_CGROUPS };

/* Directories in which groups for sandboxes can be made; "" where a controller can't be used. */
struct osb_cgroups {
    char base[OSB_CGROUPS][PATH_MAX];
    bool unified; /* version 2: the directories are one and the same */
};

/* Looks for controllers that this process may use, below the groups that it is in itself; `name` is that of the
 * runtime's own directory there. */
void osb_cgroups_open(struct osb_cgroups *cgroups, const char *name);

/* Makes the groups of the sandbox `id` with its limits. The descriptors in `entries` (the caller's; -1: none) take a
 * process in when it writes "0" to them. */
void osb_cgroups_make(const struct osb_cgroups *cgroups, const char *id, const struct osb_limits *limits,
                      int entries[OSB_CGROUPS]);

/* Removes the groups of a sandbox whose processes are gone; `id` NULL: those of all, and the directories. */
void osb_cgroups_remove(const struct osb_cgroups *cgroups, const char *id);

/* Removes the groups that a dead runtime of that name left. */
void osb_cgroups_sweep(const char *name);

/* In the new process: enters the groups, and sets what takes their place where there is none. */
bool osb_limits_apply(const struct osb_limits *limits, const int entries[OSB_CGROUPS]);

/* Tells how each limit is kept: "cgroup", "process" (each process alone), "user" (per user id) or "none". */
json_t *osb_limits_report(const struct osb_cgroups *cgroups, const struct osb_limits *limits);

#endif
