/* Changes of files and directories: remove, permissions, move, make, replace. */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "environment.h"
#include "event.h"
#include "file_copy.h"
#include "file_job.h"
#include "input.h"

#define MAX_REPLACE ((off_t)256 << 20) /* bytes of a file that is edited */

/* ---- DELETE /files ---- */

static bool remove_file(struct osb_file_job *job, const char *path)
{
    char error[OSB_PATH_ERROR_SIZE];
    struct stat info;
    char *resolved = osb_path_expand_absolute(path, error);
    bool removed = true;
    if (!resolved)
        removed = osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error removing file %s. invalid path: %s", path, error);
    else if (stat(resolved, &info) == 0 && S_ISDIR(info.st_mode))
        removed =
            osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error removing file %s. path is a directory: %s", path, path);
    else if (unlink(resolved) < 0 && errno != ENOENT)
        removed =
            osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error removing file %s. failed to remove file: remove %s: %s",
                          path, resolved, osb_file_reason(errno));
    free(resolved);
    return removed;
}

static void work_remove(struct osb_file_job *job)
{
    const char *path;
    for (size_t i = 0; (path = osb_http_request_query_at(job->request, "path", i)); i++) {
        if (!remove_file(job, path))
            return;
    }
}

void osb_file_remove(struct osb_http_request *request, void *context)
{
    osb_file_job_start(request, context, NULL, NULL, work_remove);
}

/* ---- DELETE /directories ---- */

/* Removes a tree, as far as it exists; 0, or errno with the path that resisted in `where` (to be freed). */
static int remove_tree(char *root, char **where)
{
    char *const roots[] = {root, NULL};
    FTSENT *entry;
    int error = 0;
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (!walk)
        return errno;
    while ((entry = fts_read(walk))) {
        if (entry->fts_info == FTS_D)
            continue;
        int result = entry->fts_info == FTS_DP ? rmdir(entry->fts_accpath) : unlink(entry->fts_accpath);
        if (entry->fts_info == FTS_DNR)
            result = rmdir(entry->fts_accpath);
        if (result < 0 && errno != ENOENT) {
            error = errno;
            *where = strdup(entry->fts_path);
            break;
        }
    }
    fts_close(walk);
    return error;
}

static void work_remove_directories(struct osb_file_job *job)
{
    char error[OSB_PATH_ERROR_SIZE];
    const char *path;
    for (size_t i = 0; !job->code && (path = osb_http_request_query_at(job->request, "path", i)); i++) {
        char *where = NULL, *resolved = osb_path_expand(path, NULL, error);
        if (!resolved) {
            osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error resolving directory %s. %s", path, error);
            return;
        }
        int reason = *resolved ? remove_tree(resolved, &where) : 0;
        if (reason)
            osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error removing directory %s. unlinkat %s: %s", path,
                          where ? where : resolved, osb_file_reason(reason));
        free(where);
        free(resolved);
    }
}

void osb_directory_remove(struct osb_http_request *request, void *context)
{
    osb_file_job_start(request, context, NULL, NULL, work_remove_directories);
}

/* ---- POST /files/permissions, POST /directories ---- */

/* All entries are read before the first is applied. */
static bool check_permissions(struct osb_file_job *job)
{
    const char *path;
    json_t *value;
    struct osb_file_permission permission;
    json_object_foreach(job->input, path, value)
    {
        if (!osb_file_read_permission(job, value, &permission))
            return false;
    }
    return true;
}

static bool change_permission(struct osb_file_job *job, const char *path, const struct osb_file_permission *permission)
{
    char what[OSB_PATH_ERROR_SIZE];
    struct stat info;
    char *resolved = osb_file_resolve(job, path);
    if (!resolved)
        return false;
    snprintf(what, sizeof what, "error changing permissions for %s.", path);
    bool changed = stat(resolved, &info) == 0 || errno != ENOENT
                       ? osb_file_set_permission(job, resolved, permission, what)
                       : osb_file_fail_errno(job, ENOENT, "%s chmod %s", what, resolved);
    free(resolved);
    return changed;
}

static void work_permissions(struct osb_file_job *job)
{
    const char *path;
    json_t *value;
    struct osb_file_permission permission;
    if (!check_permissions(job))
        return;
    json_object_foreach(job->input, path, value)
    {
        if (!osb_file_read_permission(job, value, &permission) || !change_permission(job, path, &permission))
            return;
    }
}

void osb_file_permissions(struct osb_http_request *request, void *context)
{
    osb_file_job_start_json(request, context, JSON_OBJECT, work_permissions);
}

static bool make_directory(struct osb_file_job *job, const char *path, const struct osb_file_permission *permission)
{
    struct stat info;
    char *resolved = osb_file_resolve(job, path);
    if (!resolved)
        return false;
    bool existed = stat(resolved, &info) == 0, made = true;
    if (osb_path_make_directories(resolved, 0777) < 0)
        made = osb_file_fail_errno(job, errno, "mkdir %s", resolved);
    else if (!existed)
        made = osb_file_set_permission(job, resolved, permission, "error accessing file:");
    free(resolved);
    return made;
}

static void work_make(struct osb_file_job *job)
{
    const char *path;
    json_t *value;
    struct osb_file_permission permission;
    if (!check_permissions(job))
        return;
    json_object_foreach(job->input, path, value)
    {
        if (!osb_file_read_permission(job, value, &permission) || !make_directory(job, path, &permission))
            return;
    }
}

void osb_directory_make(struct osb_http_request *request, void *context)
{
    osb_file_job_start_json(request, context, JSON_OBJECT, work_make);
}

/* ---- POST /files/mv ---- */

static bool move_file(struct osb_file_job *job, const char *source, const char *target)
{
    struct stat info;
    char *from = osb_file_resolve(job, source), *to = from ? osb_file_resolve(job, target) : NULL;
    bool moved = to != NULL;
    if (moved && lstat(from, &info) < 0)
        moved = osb_file_fail_errno(job, errno, "source path not found: %s: stat %s", source, from);
    if (moved) {
        char *parent = strndup(to, osb_path_directory_length(to));
        if (!parent || osb_path_make_directories(parent, 0755) < 0)
            moved = osb_file_fail(job, 500, OSB_RUNTIME_ERROR,
                                  "error accessing file: failed to create destination directory: mkdir %s: %s",
                                  parent ? parent : to, osb_file_reason(errno));
        free(parent);
    }
    if (moved && lstat(to, &info) == 0)
        moved = osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error accessing file: destination path already exists: %s",
                              target);
    if (moved && rename(from, to) < 0 && (errno != EXDEV || osb_file_move_across(from, to) < 0))
        moved = osb_file_fail_errno(job, errno, "failed to rename file: rename %s %s", from, to);
    free(from);
    free(to);
    return moved;
}

static void work_move(struct osb_file_job *job)
{
    char error[OSB_INPUT_ERROR_SIZE];
    const char *source, *target;
    for (size_t round = 0; round < 2; round++) {
        size_t index;
        json_t *item;
        json_array_foreach(job->input, index, item)
        {
            if (!osb_input_string(item, "src", &source, error) || !osb_input_string(item, "dest", &target, error)) {
                osb_file_fail(job, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                              error);
                return;
            }
            /* the first round only checks */
            if (round == 1 && !move_file(job, source, target))
                return;
        }
    }
}

void osb_file_move(struct osb_http_request *request, void *context)
{
    osb_file_job_start_json(request, context, JSON_ARRAY, work_move);
}

/* ---- POST /files/replace ---- */

/* The whole file; false with errno. */
static bool read_whole(int file, off_t size, struct osb_buf *out)
{
    if (!osb_buf_reserve(out, (size_t)size + 1)) {
        errno = ENOMEM;
        return false;
    }
    for (;;) {
        char *room = osb_buf_data(out) + out->len;
        size_t space = out->cap - out->head - out->len;
        ssize_t got = read(file, room, space);
        if (got < 0)
            return false;
        if (got == 0)
            return true;
        out->len += (size_t)got;
        if (out->len > (size_t)MAX_REPLACE || !osb_buf_reserve(out, 4096)) {
            errno = EFBIG;
            return false;
        }
    }
}

/* Appends `text` with every `old` replaced; returns their number, or -1 when memory is out. */
static long long replace_all(const struct osb_buf *text, const json_t *old, const json_t *new, struct osb_buf *out)
{
    const char *at = osb_buf_data(text), *end = at + text->len;
    const char *needle = json_string_value(old);
    size_t needle_len = json_string_length(old), new_len = json_string_length(new);
    long long count = 0;
    for (;;) {
        const char *hit = memmem(at, (size_t)(end - at), needle, needle_len);
        if (!osb_buf_append(out, at, (size_t)((hit ? hit : end) - at)))
            return -1;
        if (!hit)
            return count;
        if (out->len > (size_t)MAX_REPLACE * 2 || !osb_buf_append(out, json_string_value(new), new_len))
            return -1;
        count++;
        at = hit + needle_len;
    }
}

static bool write_whole(const char *path, const struct osb_buf *text)
{
    int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    size_t done = 0;
    while (file >= 0 && done < text->len) {
        ssize_t written = write(file, osb_buf_data(text) + done, text->len - done);
        if (written < 0)
            break;
        done += (size_t)written;
    }
    int error = errno;
    if (file >= 0)
        close(file);
    errno = error;
    return file >= 0 && done == text->len;
}

/* Edits one file; returns the number of replacements, or -1 with the outcome set. */
static long long replace_in(struct osb_file_job *job, const char *path, const json_t *old, const json_t *new)
{
    struct stat info;
    struct osb_buf before = {0}, after = {0};
    long long count = -1;
    char *resolved = osb_file_resolve(job, path);
    int file = resolved ? open(resolved, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (!resolved)
        return -1;
    if (file < 0 || fstat(file, &info) < 0)
        osb_file_fail_errno(job, errno, "stat %s", resolved);
    else if (S_ISDIR(info.st_mode))
        osb_file_fail_errno(job, EISDIR, "read %s", resolved);
    else if (json_string_length(old) == 0)
        osb_file_fail(job, 400, OSB_INVALID_REQUEST, "old content must not be empty");
    else if (info.st_size > MAX_REPLACE)
        osb_file_fail_errno(job, EFBIG, "%s has more than %lld MiB", resolved, (long long)(MAX_REPLACE >> 20));
    else if (!read_whole(file, info.st_size, &before))
        osb_file_fail_errno(job, errno, "read %s", resolved);
    else if ((count = replace_all(&before, old, new, &after)) < 0)
        osb_file_fail_errno(job, ENOMEM, "replace in %s", resolved);
    else if (count > 0 && !write_whole(resolved, &after)) {
        osb_file_fail_errno(job, errno, "write %s", resolved);
        count = -1;
    }
    if (file >= 0)
        close(file);
    osb_buf_free(&before);
    osb_buf_free(&after);
    free(resolved);
    return count;
}

static void work_replace(struct osb_file_job *job)
{
    const char *verbose = osb_http_request_query(job->request, "verbose");
    struct osb_buf text = {0};
    const char *path;
    json_t *value;
    bool going = osb_buf_append_byte(&text, '{');
    json_object_foreach(job->input, path, value)
    {
        const json_t *old = json_object_get(value, "old"), *new = json_object_get(value, "new");
        if (!json_is_object(value) || (old && !json_is_string(old) && !json_is_null(old)) ||
            (new && !json_is_string(new) && !json_is_null(new))) {
            osb_file_fail(
                job, 400, OSB_INVALID_REQUEST,
                "error parsing request, MAYBE invalid body format. json: {\"old\":string,\"new\":string} is expected");
            going = false;
            break;
        }
    }
    json_object_foreach(job->input, path, value)
    {
        if (!going)
            break;
        long long count = replace_in(job, path, json_object_get(value, "old"), json_object_get(value, "new"));
        going = count >= 0 && (text.len == 1 || osb_buf_append_byte(&text, ',')) &&
                osb_event_quote(&text, path, strlen(path)) && osb_buf_printf(&text, ":{\"replacedCount\":%lld}", count);
    }
    if (going && verbose && strcmp(verbose, "true") == 0 && osb_buf_append_byte(&text, '}'))
        job->text = text;
    else
        osb_buf_free(&text);
}

void osb_file_replace(struct osb_http_request *request, void *context)
{
    osb_file_job_start_json(request, context, JSON_OBJECT, work_replace);
}
