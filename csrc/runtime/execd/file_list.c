/* What files are there: info, directory listing, search. */
#include <errno.h>
#include <fts.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "event.h"
#include "file_job.h"
#include "glob.h"
#include "owner.h"
#include "runtime/shared/text.h"

#define MAX_ANSWER ((size_t)128 << 20) /* bytes; some 400 000 entries */

static const char *type_name(mode_t mode)
{
    return S_ISLNK(mode) ? "symlink" : S_ISDIR(mode) ? "directory" : S_ISREG(mode) ? "file" : "other";
}

/* Appends the JSON object of a file; false with the outcome set when memory is out or the answer too large. */
static bool append_info(struct osb_file_job *job, const char *path, const struct stat *info,
                        struct osb_owner_cache *cache)
{
    struct osb_buf *out = &job->text;
    char modified[OSB_TIME_SIZE], created[OSB_TIME_SIZE];
    osb_time_format(&info->st_mtim, modified);
    osb_time_format(&info->st_ctim, created);
    osb_owner_names(path, info, cache);
    bool done =
        osb_buf_append_str(out, "{\"path\":") && osb_event_quote(out, path, strlen(path)) &&
        osb_buf_printf(out, ",\"type\":\"%s\",\"size\":%lld,\"modified_at\":\"%s\",\"created_at\":\"%s\",\"owner\":",
                       type_name(info->st_mode), (long long)info->st_size, modified, created) &&
        osb_event_quote(out, cache->owner, strlen(cache->owner)) && osb_buf_append_str(out, ",\"group\":") &&
        osb_event_quote(out, cache->group, strlen(cache->group)) &&
        osb_buf_printf(out, ",\"mode\":%o}", (unsigned int)(info->st_mode & 0777));
    if (!done)
        return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "out of memory");
    if (out->len > MAX_ANSWER)
        return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "too many files: the answer would be larger than %zu MiB",
                             MAX_ANSWER >> 20);
    return true;
}

/* ---- GET /files/info ---- */

static bool append_asked(struct osb_file_job *job, const char *path, struct osb_owner_cache *cache)
{
    struct stat info;
    char *resolved = osb_file_resolve(job, path);
    bool done = resolved != NULL;
    if (done && lstat(resolved, &info) < 0)
        done = osb_file_fail_errno(job, errno, "file not found: %s: lstat %s", path, resolved);
    done = done && (job->text.len == 1 || osb_buf_append_byte(&job->text, ',')) &&
           osb_event_quote(&job->text, path, strlen(path)) && osb_buf_append_byte(&job->text, ':') &&
           append_info(job, resolved, &info, cache);
    free(resolved);
    return done;
}

static void work_info(struct osb_file_job *job)
{
    struct osb_owner_cache cache = {0};
    const char *path;
    json_t *asked = json_object(); /* a path that comes twice is once in the answer */
    bool going = asked && osb_buf_append_byte(&job->text, '{');
    for (size_t i = 0; going && (path = osb_http_request_query_at(job->request, "path", i)); i++) {
        if (json_object_get(asked, path))
            continue;
        going = json_object_set_new_nocheck(asked, path, json_true()) == 0 && append_asked(job, path, &cache);
    }
    osb_buf_append_byte(&job->text, '}');
    json_decref(asked);
}

void osb_file_info(struct osb_http_request *request, void *context)
{
    osb_file_job_start(request, context, NULL, NULL, work_info);
}

/* ---- walking ---- */

static int compare_names(const FTSENT **left, const FTSENT **right)
{
    return strcmp((*left)->fts_name, (*right)->fts_name);
}

static FTS *open_walk(struct osb_file_job *job, char *root)
{
    char *const roots[] = {root, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, compare_names);
    if (!walk)
        osb_file_fail_errno(job, errno, "open %s", root);
    return walk;
}

static bool append_entry(struct osb_file_job *job, const FTSENT *entry, struct osb_owner_cache *cache)
{
    return (job->text.len == 1 || osb_buf_append_byte(&job->text, ',')) &&
           append_info(job, entry->fts_path, entry->fts_statp, cache);
}

/* ---- GET /directories/list ---- */

static void list_tree(struct osb_file_job *job, char *root, long depth)
{
    struct osb_owner_cache cache = {0};
    FTSENT *entry;
    FTS *walk = open_walk(job, root);
    bool going = walk && osb_buf_append_byte(&job->text, '[');
    while (going && (entry = fts_read(walk))) {
        if (entry->fts_info == FTS_DP)
            continue;
        if (entry->fts_info == FTS_DNR)
            going = osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error listing directory %s. open %s: %s", root,
                                  entry->fts_path, osb_file_reason(entry->fts_errno));
        else if (entry->fts_level > 0 && entry->fts_info != FTS_NS)
            going = append_entry(job, entry, &cache);
        if (going && entry->fts_info == FTS_D && entry->fts_level >= depth)
            fts_set(walk, entry, FTS_SKIP);
    }
    osb_buf_append_byte(&job->text, ']');
    if (walk)
        fts_close(walk);
}

static void work_list(struct osb_file_job *job)
{
    const char *given = osb_http_request_query(job->request, "depth");
    long depth = 1;
    if (given && *given) {
        char *end;
        errno = 0;
        depth = strtol(given, &end, 10);
        if (*end || errno || depth < 0) {
            osb_file_fail(job, 400, OSB_INVALID_REQUEST, "invalid query parameter 'depth': %s", given);
            return;
        }
    }
    char *path = osb_file_resolve(job, osb_http_request_query(job->request, "path"));
    struct stat info;
    if (!path)
        return;
    if (lstat(path, &info) < 0)
        osb_file_fail_errno(job, errno, "lstat %s", path);
    else if (S_ISLNK(info.st_mode))
        osb_file_fail(job, 400, OSB_INVALID_REQUEST, "path is a symbolic link, refusing to traverse: %s", path);
    else if (!S_ISDIR(info.st_mode))
        osb_file_fail(job, 400, OSB_INVALID_REQUEST, "path is not a directory: %s", path);
    else
        list_tree(job, path, depth);
    free(path);
}

/* Starts a job for requests that need a path. */
static void start_with_path(struct osb_http_request *request, struct osb_execd *execd,
                            void (*work)(struct osb_file_job *job))
{
    const char *path = osb_http_request_query(request, "path");
    if (path && *path)
        osb_file_job_start(request, execd, NULL, NULL, work);
    else
        osb_http_reply_error(request, 400, OSB_MISSING_QUERY, "missing query parameter 'path'");
}

void osb_directory_list(struct osb_http_request *request, void *context)
{
    start_with_path(request, context, work_list);
}

/* ---- GET /files/search ---- */

static void search_tree(struct osb_file_job *job, char *root, const char *pattern)
{
    struct osb_owner_cache cache = {0};
    FTSENT *entry;
    FTS *walk = open_walk(job, root);
    bool going = walk && osb_buf_append_byte(&job->text, '[');
    while (going && (entry = fts_read(walk))) {
        if (entry->fts_info == FTS_D || entry->fts_info == FTS_DP || entry->fts_info == FTS_DC)
            continue;
        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS) {
            /* what vanished meanwhile is no failure */
            if (entry->fts_errno != ENOENT)
                going = osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error searching files. error accessing path %s: %s",
                                      entry->fts_path, osb_file_reason(entry->fts_errno));
            continue;
        }
        enum osb_glob_result result = osb_glob_match(pattern, entry->fts_name);
        if (result == OSB_GLOB_BAD_PATTERN)
            going = osb_file_fail(job, 500, OSB_RUNTIME_ERROR,
                                  "error searching files. invalid pattern %s: syntax error in pattern", pattern);
        else if (result == OSB_GLOB_YES)
            going = append_entry(job, entry, &cache);
    }
    osb_buf_append_byte(&job->text, ']');
    if (walk)
        fts_close(walk);
}

static void work_search(struct osb_file_job *job)
{
    const char *pattern = osb_http_request_query(job->request, "pattern");
    char *path = osb_file_resolve(job, osb_http_request_query(job->request, "path"));
    struct stat info;
    if (!path)
        return;
    if (stat(path, &info) < 0)
        osb_file_fail_errno(job, errno, "stat %s", path);
    else
        search_tree(job, path, pattern && *pattern ? pattern : "**");
    free(path);
}

void osb_file_search(struct osb_http_request *request, void *context)
{
    start_with_path(request, context, work_search);
}
