/* Snapshots: copies of a sandbox's writable directories, from which new sandboxes are made. */
#ifndef OSB_SNAPSHOT_H
#define OSB_SNAPSHOT_H

#include <jansson.h>
#include <stdbool.h>
#include <time.h>

#include "runtime/runtime/copy.h"
#include "runtime/runtime/runtime.h"
#include "runtime/runtime/sandbox.h"

#define OSB_MAX_SNAPSHOTS 1000

enum osb_snapshot_state { OSB_SNAPSHOT_CREATING, OSB_SNAPSHOT_READY, OSB_SNAPSHOT_FAILED };

struct osb_snapshot {
    struct osb_snapshot *next;
    struct osb_runtime *runtime;
    char id[OSB_ID_SIZE];
    char sandbox_id[OSB_ID_SIZE]; /* of its source, which may be gone */
    enum osb_snapshot_state state;
    char reason[64];
    char message[512];
    struct timespec created_at;
    struct timespec changed_at;
    json_t *name;          /* or NULL */
    json_t *image;         /* of its source */
    json_t *entrypoint;    /* of its source */
    struct osb_copy *copy; /* while it is being created */
};

/* Begins a snapshot of a running sandbox, whose processes stand still until the copy is made. `name` (or NULL) is
 * borrowed. NULL when memory, descriptors or the disk are out. */
struct osb_snapshot *osb_snapshot_create(struct osb_sandbox *sandbox, json_t *name);

/* Finds one; NULL when there is none. */
struct osb_snapshot *osb_snapshot_find(const struct osb_runtime *runtime, const char *id);

/* Forgets a snapshot that is not being created, and removes its files in the background. */
void osb_snapshot_delete(struct osb_snapshot *snapshot);

/* Opens the directory with the copies; -1 with errno. */
int osb_snapshot_open(const struct osb_snapshot *snapshot);

/* The official name of its state ("Ready"). */
const char *osb_snapshot_state_name(const struct osb_snapshot *snapshot);

/* Reads the snapshots that an earlier runtime left; those it did not finish are failed. */
void osb_snapshot_load_all(struct osb_runtime *runtime);

/* Frees all; what is being copied is given up. */
void osb_snapshot_forget_all(struct osb_runtime *runtime);

#endif
