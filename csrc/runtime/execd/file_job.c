#include "file_job.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"
#include "input.h"
#include "owner.h"

static void job_run(void *context)
{
    struct osb_file_job *job = context;
    job->work(job);
}

static void job_reply(struct osb_file_job *job)
{
    struct osb_http_request *request = job->request;
    for (unsigned int i = 0; i < job->header_count; i++)
        osb_http_reply_header(request, job->headers[i].name, job->headers[i].value);
    if (job->code) {
        osb_http_reply_error(request, job->status, job->code, "%s", job->message ? job->message : "out of memory");
    } else if (job->fd >= 0) {
        osb_http_reply_file(request, job->status, job->fd, job->offset, job->size);
        job->fd = -1;
    } else if (job->text.len > 0) {
        osb_http_reply_bytes(request, job->status, "application/json; charset=utf-8", osb_buf_data(&job->text),
                             job->text.len);
    } else {
        osb_http_reply_empty(request, job->status);
    }
}

static void job_done(void *context)
{
    struct osb_file_job *job = context;
    job_reply(job);
    for (unsigned int i = 0; i < job->header_count; i++)
        free(job->headers[i].value);
    if (job->fd >= 0)
        close(job->fd);
    osb_buf_free(&job->text);
    json_decref(job->input);
    free(job->message);
    free(job);
}

void osb_file_job_start(struct osb_http_request *request, struct osb_execd *execd, json_t *input, void *context,
                        void (*work)(struct osb_file_job *job))
{
    struct osb_file_job *job = calloc(1, sizeof *job);
    if (!job) {
        json_decref(input);
        osb_http_reply_drop(request);
        return;
    }
    *job = (struct osb_file_job){
        .request = request, .input = input, .context = context, .work = work, .status = 200, .fd = -1};
    if (!osb_worker_submit(execd->workers, job_run, job_done, job)) {
        osb_file_fail(job, 503, OSB_RUNTIME_ERROR, "out of memory");
        job_done(job);
    }
}

void osb_file_job_start_json(struct osb_http_request *request, struct osb_execd *execd, json_type type,
                             void (*work)(struct osb_file_job *job))
{
    json_error_t error;
    json_t *input = osb_http_request_json(request, &error);
    if (input && json_is_null(input)) {
        json_decref(input);
        input = type == JSON_ARRAY ? json_array() : json_object();
    }
    if (input && json_typeof(input) == type) {
        osb_file_job_start(request, execd, input, NULL, work);
        return;
    }
    if (input)
        osb_http_reply_error(
            request, 400, OSB_INVALID_REQUEST,
            "error parsing request, MAYBE invalid body format. json: cannot unmarshal %s, %s is expected",
            osb_input_type_name(input), type == JSON_ARRAY ? "an array" : "an object");
    else
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error.text);
    json_decref(input);
}

/* ---- outcomes ---- */

bool osb_file_fail(struct osb_file_job *job, unsigned int status, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    free(job->message);
    if (vasprintf(&job->message, format, args) < 0)
        job->message = NULL;
    va_end(args);
    job->status = status;
    job->code = code;
    return false;
}

bool osb_file_fail_errno(struct osb_file_job *job, int error, const char *format, ...)
{
    char *what = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&what, format, args) < 0)
        what = NULL;
    va_end(args);
    if (error == ENOENT)
        osb_file_fail(job, 404, OSB_FILE_NOT_FOUND, "file not found. %s: %s", what ? what : "", osb_file_reason(error));
    else
        osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error accessing file: %s: %s", what ? what : "",
                      osb_file_reason(error));
    free(what);
    return false;
}

void osb_file_add_header(struct osb_file_job *job, const char *name, const char *format, ...)
{
    char *value = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&value, format, args) < 0)
        value = NULL;
    va_end(args);
    if (!value || job->header_count == sizeof job->headers / sizeof *job->headers) {
        free(value);
        return;
    }
    job->headers[job->header_count].name = name;
    job->headers[job->header_count++].value = value;
}

const char *osb_file_reason(int error)
{
    static _Thread_local char text[128];
    snprintf(text, sizeof text, "%s", strerrordesc_np(error) ? strerrordesc_np(error) : "unknown error");
    text[0] = (char)tolower((unsigned char)text[0]);
    return text;
}

char *osb_file_resolve(struct osb_file_job *job, const char *path)
{
    char error[OSB_PATH_ERROR_SIZE];
    char *resolved = osb_path_expand_absolute(path, error);
    if (!resolved)
        osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error accessing file: invalid path %s: %s", path, error);
    return resolved;
}

/* ---- permissions ---- */

bool osb_file_read_permission(struct osb_file_job *job, const json_t *object, struct osb_file_permission *permission)
{
    char error[OSB_INPUT_ERROR_SIZE];
    *permission = (struct osb_file_permission){"", "", 0};
    if (json_is_null(object))
        return true;
    if (!json_is_object(object))
        return osb_file_fail(
            job, 400, OSB_INVALID_REQUEST,
            "error parsing request, MAYBE invalid body format. json: cannot unmarshal %s, an object is expected",
            osb_input_type_name(object));
    if (!osb_input_string(object, "owner", &permission->owner, error) ||
        !osb_input_string(object, "group", &permission->group, error) ||
        !osb_input_integer(object, "mode", &permission->mode, error))
        return osb_file_fail(job, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error);
    return true;
}

/* The mode whose octal digits are the decimal ones of `digits`; false when they aren't octal. */
static bool decode_mode(int64_t digits, mode_t *mode)
{
    *mode = 0;
    if (digits < 0 || digits > 7777)
        return false;
    for (unsigned int shift = 0; digits > 0; digits /= 10, shift += 3) {
        if (digits % 10 > 7)
            return false;
        *mode |= (mode_t)(digits % 10) << shift;
    }
    return true;
}

bool osb_file_set_permission(struct osb_file_job *job, const char *path, const struct osb_file_permission *permission,
                             const char *what)
{
    mode_t mode;
    char error[OSB_PATH_ERROR_SIZE];
    if (permission->mode != 0) {
        if (!decode_mode(permission->mode, &mode))
            return osb_file_fail(job, 500, OSB_RUNTIME_ERROR,
                                 "%s invalid mode %lld: its digits must be those of an octal mode", what,
                                 (long long)permission->mode);
        if (chmod(path, mode) < 0) {
            if (errno == ENOENT)
                return osb_file_fail_errno(job, errno, "%s chmod %s", what, path);
            return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "%s chmod %s: %s", what, path, osb_file_reason(errno));
        }
    }
    if (!osb_owner_set(path, permission->owner, permission->group, error, sizeof error))
        return osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "%s %s", what, error);
    return true;
}
