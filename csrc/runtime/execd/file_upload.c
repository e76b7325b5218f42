/* POST /files/upload: pairs of parts "metadata" and "file", written to spool files as they arrive and put in place when
 * all are there. */
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "environment.h"
#include "file_copy.h"
#include "file_job.h"
#include "input.h"

#define MAX_PARTS 4096 /* of either kind */
#define MAX_METADATA ((size_t)64 << 10)
#define PIECE_SIZE ((size_t)64 << 10) /* in which parts are handed on */

enum part { PART_OTHER, PART_METADATA, PART_FILE };

struct upload {
    struct osb_execd *execd;
    struct osb_http_request *request;
    struct MHD_PostProcessor *parser;
    struct osb_buf *metadata; /* JSON texts */
    size_t metadata_count;
    char **files; /* spool files; NULL once in place */
    size_t file_count;
    enum part part;      /* the one under way */
    bool part_is_empty;  /* until now */
    char part_name[256]; /* the beginning of its file name */
    int spool;           /* its descriptor when it is a file, else -1 */
    const char *code;    /* a failure so far */
    unsigned int status;
    char message[OSB_PATH_ERROR_SIZE];
};

static void upload_fail(struct upload *upload, unsigned int status, const char *code, const char *message)
{
    if (upload->code)
        return;
    upload->status = status;
    upload->code = code;
    snprintf(upload->message, sizeof upload->message, "%s", message);
}

static void upload_free(struct upload *upload)
{
    if (upload->parser)
        MHD_destroy_post_processor(upload->parser);
    if (upload->spool >= 0)
        close(upload->spool);
    for (size_t i = 0; i < upload->file_count; i++) {
        if (upload->files[i])
            unlink(upload->files[i]);
        free(upload->files[i]);
    }
    for (size_t i = 0; i < upload->metadata_count; i++)
        osb_buf_free(&upload->metadata[i]);
    free(upload->files);
    free(upload->metadata);
    free(upload);
}

/* ---- parts ---- */

/* The path that metadata names, expanded; NULL when it names none. */
static char *target_of(const struct osb_buf *metadata)
{
    char error[OSB_PATH_ERROR_SIZE];
    const char *path;
    char *target = NULL;
    json_t *object = json_loadb(osb_buf_data(metadata), metadata->len, JSON_ALLOW_NUL, NULL);
    if (object && osb_input_string(object, "path", &path, error) && *path)
        target = osb_path_expand(path, NULL, error);
    json_decref(object);
    return target;
}

/* Makes a spool file in the nearest directory that exists above `target` — so that it can be renamed into place — or
 * else in /tmp. */
static int open_spool(const char *target, char **name)
{
    char *directory = strdup(target ? target : "");
    for (size_t len = directory ? osb_path_directory_length(directory) : 0; len > 0;
         len = osb_path_directory_length(directory)) {
        directory[len] = '\0';
        if (asprintf(name, "%s/.upload-XXXXXX", directory) < 0) {
            *name = NULL;
            break;
        }
        int spool = mkostemp(*name, O_CLOEXEC);
        if (spool >= 0) {
            free(directory);
            return spool;
        }
        free(*name);
        *name = NULL;
        if (errno != ENOENT || len == 1)
            break;
    }
    free(directory);
    *name = strdup("/tmp/.upload-XXXXXX");
    int spool = *name ? mkostemp(*name, O_CLOEXEC) : -1;
    if (spool < 0) {
        free(*name);
        *name = NULL;
    }
    return spool;
}

static void begin_metadata(struct upload *upload)
{
    struct osb_buf *grown = NULL;
    if (upload->metadata_count < MAX_PARTS)
        grown = realloc(upload->metadata, (upload->metadata_count + 1) * sizeof *grown);
    if (!grown) {
        upload_fail(upload, 400, "INVALID_FILE", "too many parts");
        return;
    }
    upload->metadata = grown;
    upload->metadata[upload->metadata_count++] = (struct osb_buf){0};
    upload->part = PART_METADATA;
}

static void begin_file(struct upload *upload)
{
    char **grown = NULL;
    if (upload->file_count < MAX_PARTS)
        grown = realloc(upload->files, (upload->file_count + 1) * sizeof *grown);
    if (!grown) {
        upload_fail(upload, 400, "INVALID_FILE", "too many parts");
        return;
    }
    upload->files = grown;
    char *target =
        upload->metadata_count > upload->file_count ? target_of(&upload->metadata[upload->file_count]) : NULL;
    upload->spool = open_spool(target, &upload->files[upload->file_count]);
    free(target);
    if (upload->spool < 0) {
        upload_fail(upload, 500, OSB_RUNTIME_ERROR, "no place to keep the upload");
        return;
    }
    upload->file_count++;
    upload->part = PART_FILE;
}

static void end_part(struct upload *upload)
{
    if (upload->spool >= 0 && close(upload->spool) < 0)
        upload_fail(upload, 500, OSB_RUNTIME_ERROR, "error writing file: the last bytes were not taken");
    upload->spool = -1;
    upload->part = PART_OTHER;
}

static void write_spool(struct upload *upload, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t written = write(upload->spool, bytes, len);
        if (written < 0) {
            char message[160];
            snprintf(message, sizeof message, "error writing file: %s", osb_file_reason(errno));
            upload_fail(upload, 500, OSB_RUNTIME_ERROR, message);
            return;
        }
        bytes += written;
        len -= (size_t)written;
    }
}

static enum MHD_Result take_part(void *context, enum MHD_ValueKind kind, const char *name, const char *filename,
                                 const char *type, const char *encoding, const char *bytes, uint64_t offset, size_t len)
{
    struct upload *upload = context;
    (void)kind;
    (void)type;
    (void)encoding;
    if (upload->code)
        return MHD_YES; /* the rest is read and dropped */
    /* libmicrohttpd may tell the beginning of a part twice, first without bytes */
    bool again = offset == 0 && upload->part_is_empty && upload->part != PART_OTHER && name && filename &&
                 strcmp(name, upload->part == PART_FILE ? "file" : "metadata") == 0 &&
                 strncmp(filename, upload->part_name, sizeof upload->part_name - 1) == 0;
    if (offset == 0 && !again) {
        end_part(upload);
        snprintf(upload->part_name, sizeof upload->part_name, "%s", filename ? filename : "");
        /* without a file name it is a form value, which is not asked for */
        if (name && filename && strcmp(name, "metadata") == 0)
            begin_metadata(upload);
        else if (name && filename && strcmp(name, "file") == 0)
            begin_file(upload);
    }
    upload->part_is_empty = offset == 0 && len == 0;
    if (upload->code)
        return MHD_YES;
    if (upload->part == PART_FILE) {
        write_spool(upload, bytes, len);
    } else if (upload->part == PART_METADATA) {
        struct osb_buf *metadata = &upload->metadata[upload->metadata_count - 1];
        if (metadata->len + len > MAX_METADATA || !osb_buf_append(metadata, bytes, len))
            upload_fail(upload, 400, "INVALID_FILE_METADATA", "metadata is too large");
    }
    return MHD_YES;
}

/* ---- putting in place, in a worker ---- */

/* Empties an existing file and fills it with the spool's bytes, so that it stays the same file. */
static bool overwrite(struct osb_file_job *job, const char *spool, const char *target)
{
    int to = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0777);
    if (to < 0)
        return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error opening destination file %s. open %s: %s", target,
                             target, osb_file_reason(errno));
    int from = open(spool, O_RDONLY | O_CLOEXEC);
    bool copied = from >= 0 && osb_file_copy_bytes(from, to) == 0;
    int error = errno;
    if (close(to) < 0 && copied) {
        error = errno;
        copied = false;
    }
    if (from >= 0)
        close(from);
    if (!copied)
        return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error copying file %s. %s", target, osb_file_reason(error));
    return true;
}

static bool put_in_place(struct osb_file_job *job, char **spool, const char *target)
{
    static const mode_t fresh = 0777 & ~022;
    char *parent = strndup(target, osb_path_directory_length(target));
    bool ready = parent && (!*parent || osb_path_make_directories(parent, 0777) == 0);
    if (!ready)
        osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error creating target directory %s. mkdir: %s",
                      parent ? parent : target, osb_file_reason(errno));
    free(parent);
    if (!ready)
        return false;
    if (chmod(*spool, fresh) == 0 && renameat2(AT_FDCWD, *spool, AT_FDCWD, target, RENAME_NOREPLACE) == 0) {
        free(*spool);
        *spool = NULL;
        return true;
    }
    return overwrite(job, *spool, target);
}

static bool place_pair(struct osb_file_job *job, const struct osb_buf *metadata, char **spool)
{
    char error[OSB_PATH_ERROR_SIZE];
    const char *path;
    json_error_t reason;
    struct osb_file_permission permission;
    json_t *object = json_loadb(osb_buf_data(metadata), metadata->len, JSON_ALLOW_NUL, &reason);
    bool placed = false;
    char *target = NULL;
    if (!json_is_object(object))
        osb_file_fail(job, 400, "INVALID_FILE_METADATA", "invalid metadata format. %s",
                      object ? "an object is expected" : reason.text);
    else if (!osb_input_string(object, "path", &path, error))
        osb_file_fail(job, 400, "INVALID_FILE_METADATA", "invalid metadata format. %s", error);
    else if (!*path)
        osb_file_fail(job, 400, "INVALID_FILE_METADATA", "metadata path is empty");
    else if (!osb_file_read_permission(job, object, &permission))
        osb_file_fail(job, 400, "INVALID_FILE_METADATA",
                      "invalid metadata format. owner, group or mode has the wrong type");
    else if (!(target = osb_path_expand(path, NULL, error)))
        osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error resolving target path %s. %s", path, error);
    else
        placed = put_in_place(job, spool, target) &&
                 osb_file_set_permission(job, target, &permission, "error chmoding file");
    free(target);
    json_decref(object);
    return placed;
}

static void work_upload(struct osb_file_job *job)
{
    struct upload *upload = job->context;
    for (size_t i = 0; i < upload->file_count; i++) {
        if (!place_pair(job, &upload->metadata[i], &upload->files[i]))
            break;
    }
    upload_free(upload);
}

/* ---- the request ---- */

/* All of the body came: checks it and has it put in place. */
static void finish(struct upload *upload)
{
    struct osb_http_request *request = upload->request;
    enum MHD_Result whole = MHD_destroy_post_processor(upload->parser);
    upload->parser = NULL;
    end_part(upload);
    if (whole != MHD_YES || (upload->metadata_count == 0 && upload->file_count == 0 && !upload->code))
        upload_fail(upload, 400, whole == MHD_YES ? "INVALID_FILE_METADATA" : "INVALID_FILE",
                    whole == MHD_YES ? "metadata file is missing" : "multipart form is empty");
    if (upload->metadata_count == 0)
        upload_fail(upload, 400, "INVALID_FILE_METADATA", "metadata file is missing");
    if (upload->file_count == 0)
        upload_fail(upload, 400, "INVALID_FILE_CONTENT", "file is missing");
    if (upload->metadata_count != upload->file_count) {
        char message[96];
        snprintf(message, sizeof message, "metadata and file count mismatch: %zu vs %zu", upload->metadata_count,
                 upload->file_count);
        upload_fail(upload, 400, "INVALID_FILE", message);
    }
    osb_http_request_on_gone(request, NULL, NULL);
    if (upload->code) {
        osb_http_reply_error(request, upload->status, upload->code, "%s", upload->message);
        upload_free(upload);
    } else {
        osb_file_job_start(request, upload->execd, NULL, upload, work_upload);
    }
}

static size_t take_body(void *context, const char *bytes, size_t len)
{
    struct upload *upload = context;
    if (len == 0)
        finish(upload);
    else if (MHD_post_process(upload->parser, bytes, len) != MHD_YES)
        upload_fail(upload, 400, "INVALID_FILE", "multipart form is malformed");
    return len;
}

static void client_gone(struct osb_http_request *request, void *context)
{
    (void)request;
    upload_free(context);
}

void osb_file_upload(struct osb_http_request *request, void *context)
{
    static const char form[] = "multipart/form-data";
    const char *type = osb_http_request_header(request, "Content-Type");
    struct upload *upload = NULL;
    if (type && strncasecmp(type, form, strlen(form)) == 0)
        upload = calloc(1, sizeof *upload);
    if (upload)
        upload->parser = MHD_create_post_processor(osb_http_request_connection(request), PIECE_SIZE, take_part, upload);
    if (!upload || !upload->parser) {
        free(upload);
        osb_http_reply_error(request, 400, "INVALID_FILE", "multipart form is empty");
        return;
    }
    upload->execd = context;
    upload->request = request;
    upload->spool = -1;
    osb_http_request_on_gone(request, client_gone, upload);
    osb_http_request_read(request, take_body, upload);
}
