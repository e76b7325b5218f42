#include "runtime/runtime/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/runtime/json_file.h"
#include "runtime/runtime/log.h"

#define FOLDER "records"
#define SUFFIX ".json"
#define NAME_SIZE (OSB_ID_SIZE + sizeof SUFFIX)

static int open_folder(const struct osb_runtime *runtime)
{
    return openat(runtime->state.keep, FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

void osb_record_save(const struct osb_sandbox *sandbox)
{
    if (!sandbox->runtime->state.persistent)
        return;
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s" SUFFIX, sandbox->id);
    json_t *record =
        json_pack("{s:s, s:s, s:i, s:b, s:I, s:o, s:o, s:O, s:O*, s:O*, s:O*, s:O*, s:o*}", "id", sandbox->id, "state",
                  osb_sandbox_state_name(sandbox), "exitCode", sandbox->exit_code, "lost", sandbox->lost,
                  "renewSeconds", (json_int_t)sandbox->renew_seconds, "createdAt", osb_json_time(&sandbox->created_at),
                  "changedAt", osb_json_time(&sandbox->changed_at), "metadata", sandbox->metadata, "image",
                  sandbox->image, "snapshotId", sandbox->snapshot_id, "platform", sandbox->platform, "entrypoint",
                  sandbox->entrypoint, "expiresAt", sandbox->expires ? osb_json_time(&sandbox->expires_at) : NULL);
    int folder = open_folder(sandbox->runtime);
    if (folder < 0 || !record || !osb_json_save(folder, name, record))
        osb_log("sandbox %s: its record could not be written: %s", sandbox->id, strerror(errno));
    json_decref(record);
    if (folder >= 0)
        close(folder);
}

void osb_record_remove(const struct osb_sandbox *sandbox)
{
    if (!sandbox->runtime->state.persistent)
        return;
    char path[sizeof FOLDER + NAME_SIZE];
    snprintf(path, sizeof path, FOLDER "/%s" SUFFIX, sandbox->id);
    if (unlinkat(sandbox->runtime->state.keep, path, 0) != 0 && errno != ENOENT)
        osb_log("sandbox %s: its record could not be removed: %s", sandbox->id, strerror(errno));
}

/* ---- restart ---- */

static void fill(struct osb_sandbox *sandbox, const json_t *record)
{
    const char *state = json_string_value(json_object_get(record, "state"));
    const bool ended = state && (strcmp(state, "Terminated") == 0 || strcmp(state, "Failed") == 0);
    sandbox->state = ended && strcmp(state, "Terminated") == 0 ? OSB_TERMINATED : OSB_FAILED;
    sandbox->exit_code = (int)json_integer_value(json_object_get(record, "exitCode"));
    sandbox->lost = !ended || json_is_true(json_object_get(record, "lost"));
    sandbox->renew_seconds = json_integer_value(json_object_get(record, "renewSeconds"));
    (void)osb_json_read_time(record, "createdAt", &sandbox->created_at);
    if (!ended || !osb_json_read_time(record, "changedAt", &sandbox->changed_at))
        clock_gettime(CLOCK_REALTIME, &sandbox->changed_at);
    sandbox->image = json_incref(json_object_get(record, "image"));
    sandbox->snapshot_id = json_incref(json_object_get(record, "snapshotId"));
    sandbox->platform = json_incref(json_object_get(record, "platform"));
    sandbox->entrypoint = json_incref(json_object_get(record, "entrypoint"));
}

static void load(struct osb_runtime *runtime, int folder, const char *name)
{
    json_t *record = osb_json_load(folder, name);
    json_t *metadata = json_object_get(record, "metadata");
    char id[OSB_ID_SIZE];
    osb_json_read_text(record, "id", id, sizeof id);
    struct osb_sandbox *sandbox = NULL;
    if (strlen(id) == OSB_ID_SIZE - 1 && json_is_object(metadata))
        sandbox = osb_sandbox_remember(runtime, id, metadata);
    if (sandbox) {
        struct timespec expiry;
        fill(sandbox, record);
        if (osb_json_read_time(record, "expiresAt", &expiry))
            (void)osb_sandbox_set_expiry(sandbox, &expiry);
        osb_record_save(sandbox);
    } else {
        osb_log("the record %s is not understood", name);
    }
    json_decref(record);
}

/* Later first. */
static int compare(const void *left, const void *right)
{
    const struct timespec *a = &(*(struct osb_sandbox *const *)left)->created_at;
    const struct timespec *b = &(*(struct osb_sandbox *const *)right)->created_at;
    if (a->tv_sec != b->tv_sec)
        return a->tv_sec < b->tv_sec ? 1 : -1;
    return (a->tv_nsec < b->tv_nsec) - (a->tv_nsec > b->tv_nsec);
}

static void sort(struct osb_runtime *runtime)
{
    struct osb_sandbox **all = calloc(runtime->sandbox_count + 1, sizeof(struct osb_sandbox *));
    size_t count = 0;
    for (struct osb_sandbox *next = runtime->sandboxes; all && next; next = next->next)
        all[count++] = next;
    if (count > 1) {
        qsort(all, count, sizeof(struct osb_sandbox *), compare);
        for (size_t i = 0; i < count; i++)
            all[i]->next = i + 1 < count ? all[i + 1] : NULL;
        runtime->sandboxes = all[0];
    }
    free(all);
}

void osb_record_load_all(struct osb_runtime *runtime)
{
    int fd = open_folder(runtime);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL && runtime->sandbox_count < OSB_MAX_SANDBOXES) {
        if (strlen(entry->d_name) == NAME_SIZE - 2 && *entry->d_name != '.')
            load(runtime, dirfd(folder), entry->d_name);
    }
    (void)closedir(folder);
    sort(runtime);
}
