/* Volumes: directories of the machine, and named ones that outlive sandboxes, inside of a sandbox. */
#ifndef OSB_VOLUME_H
#define OSB_VOLUME_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "runtime/runtime/identity.h"
#include "runtime/runtime/rules.h"
#include "runtime/runtime/state.h"

#define OSB_MAX_VOLUMES 16
#define OSB_VOLUMES_STAGING "volumes" /* in the directory of a sandbox of root: where its volumes are mounted first */
#define OSB_MAX_ALLOWED_PATHS 64

/* Directories of the machine below which volumes may lie; kept until the process ends. */
struct osb_allowed_paths {
    char *path[OSB_MAX_ALLOWED_PATHS];
    size_t count;
};

/* Adds a directory. False when it is not absolute, has "..", or there are too many. */
bool osb_volumes_allow(struct osb_allowed_paths *allowed, const char *path);

struct osb_volume {
    int fd;       /* the directory (O_PATH); once mapped, a mount of its own */
    char *target; /* where it is inside: absolute, no needless slashes */
    char *claim;  /* name of a named volume, or NULL */
    bool read_only;
    bool ends; /* the named volume was made for the sandbox, and is removed with it */
};

struct osb_volumes {
    struct osb_volume *list;
    size_t count;
};

/* Reads the volumes of a create request (an array, or NULL) and opens their directories; named volumes and directories
 * below are made where they are missing. No symbolic link and no ".." leads out of the allowed directory or the named
 * volume. False with the error of the API; nothing is open then. */
bool osb_volumes_open(struct osb_volumes *volumes, const json_t *given, const struct osb_allowed_paths *allowed,
                      const struct osb_state *state, struct osb_rule_error *error);

/* Closes the descriptors alone: the sandbox runs. */
void osb_volumes_release(struct osb_volumes *volumes);

/* Closes and frees; safe to repeat. */
void osb_volumes_close(struct osb_volumes *volumes);

/* Makes the places inside the private directories of the sandbox `id` that volumes are mounted on. False with a
 * sentence: a symbolic link or a file is in the way. */
bool osb_volumes_make_targets(const struct osb_volumes *volumes, const struct osb_state *state, const char *id,
                              const struct osb_identity *identity, char *error, size_t size);

/* For a runtime that is root: makes each a mount of its own in which the sandbox's root stands for the owner of a
 * host directory, and ids inside for the same ids on disk in a named volume. `userns`: the sandbox's. False with a
 * sentence. */
bool osb_volumes_map(struct osb_volumes *volumes, const struct osb_identity *identity, int userns, char *error,
                     size_t size);

/* In the new process, still as root: a mount namespace of its own, with every volume on `staging`/0, /1 … */
bool osb_volumes_attach(const struct osb_volumes *volumes, const char *staging);

/* Appends bubblewrap's arguments; `staging` NULL: the volumes are the descriptors from `first` on. */
bool osb_volumes_args(const struct osb_volumes *volumes, const char *staging, int first, struct osb_buf *args);

#endif
