#include "runtime/runtime/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/runtime/json_file.h"
#include "runtime/runtime/log.h"

#define FOLDER "snapshots"
#define RECORD "snapshot.json"
#define FILES "files"

const char *osb_snapshot_state_name(const struct osb_snapshot *snapshot)
{
    static const char *const names[] = {"Creating", "Ready", "Failed"};
    return names[snapshot->state];
}

struct osb_snapshot *osb_snapshot_find(const struct osb_runtime *runtime, const char *id)
{
    struct osb_snapshot *snapshot = runtime->snapshots;
    while (snapshot && strcmp(snapshot->id, id) != 0)
        snapshot = snapshot->next;
    return snapshot;
}

static void free_snapshot(struct osb_snapshot *snapshot)
{
    for (struct osb_snapshot **place = &snapshot->runtime->snapshots; *place; place = &(*place)->next) {
        if (*place == snapshot) {
            *place = snapshot->next;
            snapshot->runtime->snapshot_count--;
            break;
        }
    }
    if (snapshot->copy)
        osb_copy_cancel(snapshot->copy);
    json_decref(snapshot->name);
    json_decref(snapshot->image);
    json_decref(snapshot->entrypoint);
    free(snapshot);
}

/* ---- on disk ---- */

/* Opens the snapshot's own directory; -1 with errno. */
static int open_own(const struct osb_snapshot *snapshot)
{
    char path[sizeof FOLDER + OSB_ID_SIZE];
    snprintf(path, sizeof path, FOLDER "/%s", snapshot->id);
    return openat(snapshot->runtime->state.keep, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int osb_snapshot_open(const struct osb_snapshot *snapshot)
{
    int own = open_own(snapshot);
    if (own < 0)
        return -1;
    int fd = openat(own, FILES, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int code = errno;
    close(own);
    errno = code;
    return fd;
}

static bool make_directories(const struct osb_snapshot *snapshot)
{
    char path[sizeof FOLDER + OSB_ID_SIZE];
    snprintf(path, sizeof path, FOLDER "/%s", snapshot->id);
    if (mkdirat(snapshot->runtime->state.keep, path, 0700) != 0)
        return false;
    int own = open_own(snapshot);
    bool made = own >= 0 && mkdirat(own, FILES, 0700) == 0;
    if (own >= 0)
        close(own);
    return made;
}

/* Puts the files where the janitor removes them. */
static void remove_files(const struct osb_snapshot *snapshot)
{
    char removable[OSB_ID_SIZE];
    const struct osb_runtime *runtime = snapshot->runtime;
    if (!osb_state_discard(&runtime->state, FOLDER, snapshot->id, removable, sizeof removable) ||
        !osb_janitor_remove(&runtime->janitor, removable))
        osb_log("snapshot %s: its files could not be removed", snapshot->id);
}

static void save(const struct osb_snapshot *snapshot)
{
    int own = open_own(snapshot);
    json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:O*, s:O*, s:O*}", "id", snapshot->id, "sandboxId",
                               snapshot->sandbox_id, "state", osb_snapshot_state_name(snapshot), "reason",
                               snapshot->reason, "message", snapshot->message, "createdAt",
                               osb_json_time(&snapshot->created_at), "changedAt", osb_json_time(&snapshot->changed_at),
                               "name", snapshot->name, "image", snapshot->image, "entrypoint", snapshot->entrypoint);
    if (own < 0 || !record || !osb_json_save(own, RECORD, record))
        osb_log("snapshot %s: its record could not be written: %s", snapshot->id, strerror(errno));
    json_decref(record);
    if (own >= 0)
        close(own);
}

static void change_state(struct osb_snapshot *snapshot, enum osb_snapshot_state state, const char *reason,
                         const char *message)
{
    snapshot->state = state;
    clock_gettime(CLOCK_REALTIME, &snapshot->changed_at);
    snprintf(snapshot->reason, sizeof snapshot->reason, "%s", reason);
    snprintf(snapshot->message, sizeof snapshot->message, "%s", message);
    osb_log("snapshot %s: %s", snapshot->id, osb_snapshot_state_name(snapshot));
    save(snapshot);
}

/* ---- create and delete ---- */

static void on_copied(void *context, const char *error)
{
    struct osb_snapshot *snapshot = context;
    struct osb_sandbox *sandbox = osb_sandbox_find(snapshot->runtime, snapshot->sandbox_id);
    snapshot->copy = NULL;
    if (sandbox)
        osb_sandbox_release(sandbox);
    if (!error && !sandbox)
        error = "the sandbox was deleted meanwhile";
    if (!error) {
        change_state(snapshot, OSB_SNAPSHOT_READY, "snapshot_runtime_ready", "The snapshot is ready.");
        return;
    }
    char message[sizeof snapshot->message];
    snprintf(message, sizeof message, "The sandbox could not be copied: %s.", error);
    remove_files(snapshot);
    if (make_directories(snapshot)) /* for the record alone */
        change_state(snapshot, OSB_SNAPSHOT_FAILED, "snapshot_runtime_failed", message);
}

/* Begins to copy a sandbox that stands still. */
static bool start_copy(struct osb_snapshot *snapshot, const struct osb_sandbox *sandbox)
{
    int from = openat(snapshot->runtime->state.dir, sandbox->id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int to = from < 0 ? -1 : osb_snapshot_open(snapshot);
    const struct osb_copy_spec spec = {
        .from = from, .to = to, .names = osb_state_private_dirs, .owner = &sandbox->identity, .from_sandbox = true};
    if (to >= 0)
        snapshot->copy = osb_copy_start(snapshot->runtime->loop, &spec, on_copied, snapshot);
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return snapshot->copy != NULL;
}

static struct osb_snapshot *add_snapshot(struct osb_runtime *runtime)
{
    struct osb_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return NULL;
    snapshot->runtime = runtime;
    snapshot->next = runtime->snapshots;
    runtime->snapshots = snapshot;
    runtime->snapshot_count++;
    return snapshot;
}

struct osb_snapshot *osb_snapshot_create(struct osb_sandbox *sandbox, json_t *name)
{
    struct osb_snapshot *snapshot = add_snapshot(sandbox->runtime);
    if (!snapshot)
        return NULL;
    osb_sandbox_make_id(snapshot->id);
    memcpy(snapshot->sandbox_id, sandbox->id, sizeof snapshot->sandbox_id);
    clock_gettime(CLOCK_REALTIME, &snapshot->created_at);
    snapshot->name = json_incref(name);
    snapshot->image = json_incref(sandbox->image);
    snapshot->entrypoint = json_incref(sandbox->entrypoint);
    if (!make_directories(snapshot) || !osb_sandbox_hold(sandbox)) {
        remove_files(snapshot);
        free_snapshot(snapshot);
        return NULL;
    }
    if (!start_copy(snapshot, sandbox)) {
        osb_sandbox_release(sandbox);
        remove_files(snapshot);
        free_snapshot(snapshot);
        return NULL;
    }
    change_state(snapshot, OSB_SNAPSHOT_CREATING, "snapshot_accepted", "Snapshot creation accepted.");
    return snapshot;
}

void osb_snapshot_delete(struct osb_snapshot *snapshot)
{
    osb_log("snapshot %s: deleted", snapshot->id);
    remove_files(snapshot);
    free_snapshot(snapshot);
}

/* ---- restart ---- */

static void load(struct osb_runtime *runtime, int folder, const char *id)
{
    int own = openat(folder, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    json_t *record = own < 0 ? NULL : osb_json_load(own, RECORD);
    struct osb_snapshot *snapshot = record ? add_snapshot(runtime) : NULL;
    if (own >= 0)
        close(own);
    if (!snapshot) {
        json_decref(record);
        return;
    }
    snprintf(snapshot->id, sizeof snapshot->id, "%s", id);
    osb_json_read_text(record, "sandboxId", snapshot->sandbox_id, sizeof snapshot->sandbox_id);
    osb_json_read_text(record, "reason", snapshot->reason, sizeof snapshot->reason);
    osb_json_read_text(record, "message", snapshot->message, sizeof snapshot->message);
    snapshot->name = json_incref(json_object_get(record, "name"));
    snapshot->image = json_incref(json_object_get(record, "image"));
    snapshot->entrypoint = json_incref(json_object_get(record, "entrypoint"));
    const char *state = json_string_value(json_object_get(record, "state"));
    snapshot->state = state && strcmp(state, "Ready") == 0 ? OSB_SNAPSHOT_READY : OSB_SNAPSHOT_FAILED;
    bool timed = osb_json_read_time(record, "createdAt", &snapshot->created_at) &&
                 osb_json_read_time(record, "changedAt", &snapshot->changed_at);
    if (!timed || !state || strcmp(state, "Creating") == 0) {
        remove_files(snapshot);
        if (make_directories(snapshot))
            change_state(snapshot, OSB_SNAPSHOT_FAILED, "snapshot_recovery_failed",
                         "The runtime ended before the snapshot was ready.");
    }
    json_decref(record);
}

/* Later first. */
static int compare(const void *left, const void *right)
{
    const struct timespec *a = &(*(struct osb_snapshot *const *)left)->created_at;
    const struct timespec *b = &(*(struct osb_snapshot *const *)right)->created_at;
    if (a->tv_sec != b->tv_sec)
        return a->tv_sec < b->tv_sec ? 1 : -1;
    return (a->tv_nsec < b->tv_nsec) - (a->tv_nsec > b->tv_nsec);
}

static void sort(struct osb_runtime *runtime)
{
    struct osb_snapshot **all = calloc(runtime->snapshot_count, sizeof(struct osb_snapshot *));
    size_t count = 0;
    for (struct osb_snapshot *next = runtime->snapshots; all && next; next = next->next)
        all[count++] = next;
    if (count > 1) {
        qsort(all, count, sizeof(struct osb_snapshot *), compare);
        for (size_t i = 0; i < count; i++)
            all[i]->next = i + 1 < count ? all[i + 1] : NULL;
        runtime->snapshots = all[0];
    }
    free(all);
}

void osb_snapshot_load_all(struct osb_runtime *runtime)
{
    int fd = openat(runtime->state.keep, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL && runtime->snapshot_count < OSB_MAX_SNAPSHOTS) {
        if (strlen(entry->d_name) == OSB_ID_SIZE - 1)
            load(runtime, dirfd(folder), entry->d_name);
    }
    (void)closedir(folder);
    sort(runtime);
}

void osb_snapshot_forget_all(struct osb_runtime *runtime)
{
    while (runtime->snapshots)
        free_snapshot(runtime->snapshots); /* NOLINT(clang-analyzer-unix.Malloc): it leaves the list */
}
