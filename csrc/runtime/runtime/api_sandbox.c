#include <stdio.h>
#include <string.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/create.h"
#include "runtime/runtime/json_file.h"
#include "runtime/runtime/page.h"
#include "runtime/runtime/record.h"
#include "runtime/runtime/rules.h"
#include "runtime/runtime/sandbox.h"

/* ---- answers ---- */

static json_t *status_json(const struct osb_sandbox *sandbox)
{
    const char *reason = "CONTAINER_RUNNING";
    json_t *message = NULL;
    switch (sandbox->state) {
    case OSB_PENDING:
        reason = "CONTAINER_STARTING";
        message = json_string("The sandbox is starting.");
        break;
    case OSB_RUNNING:
        message = json_string("The sandbox is running.");
        break;
    case OSB_PAUSED:
        reason = "CONTAINER_PAUSED";
        message = json_string("The sandbox is paused.");
        break;
    case OSB_TERMINATED:
        reason = "CONTAINER_EXITED";
        message = json_string("The sandbox ended by itself.");
        break;
    case OSB_FAILED:
        reason = sandbox->lost ? "RUNTIME_RESTARTED" : "CONTAINER_EXITED_ERROR";
        message = sandbox->lost ? json_string("The runtime ended, and the sandbox with it.")
                                : json_sprintf("The sandbox ended by itself with exit code %d.", sandbox->exit_code);
        break;
    }
    return json_pack("{s:s, s:s, s:o, s:o}", "state", osb_sandbox_state_name(sandbox), "reason", reason, "message",
                     message, "lastTransitionAt", osb_json_time(&sandbox->changed_at));
}

/* Adds a borrowed value unless it is NULL. */
static void set(json_t *object, const char *name, json_t *value)
{
    if (value)
        (void)json_object_set(object, name, value);
}

/* The Sandbox of the API; without the image it is the answer to create. */
static json_t *sandbox_json(const struct osb_sandbox *sandbox, bool with_image)
{
    json_t *body = json_pack("{s:s, s:o, s:o}", "id", sandbox->id, "status", status_json(sandbox), "createdAt",
                             osb_json_time(&sandbox->created_at));
    if (with_image)
        set(body, sandbox->snapshot_id ? "snapshotId" : "image",
            sandbox->snapshot_id ? sandbox->snapshot_id : sandbox->image);
    set(body, "platform", sandbox->platform);
    set(body, "entrypoint", sandbox->entrypoint);
    if (json_object_size(sandbox->metadata) > 0)
        set(body, "metadata", sandbox->metadata);
    if (body && *sandbox->address)
        (void)json_object_set_new(
            body, "runtime",
            json_pack("{s:o}", "limits", osb_limits_report(&sandbox->runtime->cgroups, &sandbox->limits)));
    if (body && sandbox->expires)
        (void)json_object_set_new(body, "expiresAt", osb_json_time(&sandbox->expires_at));
    return body;
}

json_t *osb_api_sandbox_json(const struct osb_sandbox *sandbox)
{
    return sandbox_json(sandbox, true);
}

/* The body as an object; else answers 422 and returns NULL. */
static json_t *read_object(struct osb_http_request *request)
{
    json_error_t error;
    json_t *body = osb_http_request_json(request, &error);
    if (json_is_object(body))
        return body;
    if (body)
        osb_reply_unprocessable(request, "body", NULL, "model_attributes_type", "Input should be a valid object");
    else
        osb_reply_unprocessable(request, "body", NULL, "json_invalid", "JSON decode error");
    json_decref(body);
    return NULL;
}

/* ---- create ---- */

static void created(void *context, struct osb_sandbox *sandbox, const char *error)
{
    struct osb_http_request *request = context;
    if (sandbox)
        osb_http_reply_json(request, 202, sandbox_json(sandbox, false));
    else
        osb_http_reply_error(request, 500, "DOCKER::SANDBOX_START_FAILED", "%s", error);
}

void osb_api_create(struct osb_http_request *request, void *context)
{
    struct osb_runtime *runtime = context;
    json_t *body = read_object(request);
    struct osb_sandbox_spec spec;
    if (!body)
        return;
    if (runtime->sandbox_count >= OSB_MAX_SANDBOXES)
        osb_http_reply_error(request, 503, "DOCKER::SANDBOX_START_FAILED",
                             "There are %d sandboxes already, as many as this runtime keeps.", OSB_MAX_SANDBOXES);
    else if (osb_create_read(runtime, request, body, &spec))
        osb_sandbox_create(runtime, &spec, created, request);
    json_decref(body);
}

/* ---- list ---- */

static bool has_metadata(const struct osb_sandbox *sandbox, json_t *wanted)
{
    const char *key;
    json_t *value;
    bool found = true;
    json_object_foreach(wanted, key, value)
    {
        const json_t *own = json_object_get(sandbox->metadata, key);
        found = found && own && json_equal(own, value);
    }
    return found;
}

void osb_api_list(struct osb_http_request *request, void *context)
{
    const struct osb_runtime *runtime = context;
    const char *text = osb_http_request_query(request, "metadata");
    json_t *metadata = text && *text ? osb_rules_parse_filter(text) : NULL;
    struct osb_page page;
    if (text && *text && !metadata)
        osb_http_reply_error(request, 400, "INVALID_METADATA_FORMAT",
                             "Invalid metadata format: it is key=value&key2=value2, URL-encoded once more as a whole.");
    else if (osb_page_read(&page, request)) {
        for (const struct osb_sandbox *sandbox = runtime->sandboxes; sandbox; sandbox = sandbox->next) {
            if (!sandbox->deleted && osb_page_wants(&page, osb_sandbox_state_name(sandbox)) &&
                has_metadata(sandbox, metadata) && osb_page_takes(&page))
                (void)json_array_append_new(page.items, sandbox_json(sandbox, true));
        }
        osb_page_reply(&page, request);
    }
    json_decref(metadata);
}

/* ---- one sandbox ---- */

void osb_api_get(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (sandbox)
        osb_http_reply_json(request, 200, sandbox_json(sandbox, true));
}

static void deleted(void *context)
{
    osb_http_reply_empty(context, 204);
}

void osb_api_delete(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (sandbox)
        osb_sandbox_delete(sandbox, deleted, request);
}

void osb_api_patch_metadata(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    json_t *patch = sandbox ? read_object(request) : NULL;
    if (!patch)
        return;
    struct osb_rule_error error;
    const char *key;
    json_t *value;
    bool texts = true;
    json_object_foreach(patch, key, value)
    {
        texts = texts && (json_is_string(value) || json_is_null(value));
    }
    if (!texts) {
        osb_reply_unprocessable(request, "body", NULL, "string_type", "Input should be an object of strings and nulls");
    } else if (!osb_rules_check_metadata(patch, &error)) {
        osb_http_reply_error(request, 400, error.code, "%s", error.message);
    } else {
        json_object_foreach(patch, key, value)
        {
            if (json_is_null(value))
                (void)json_object_del(sandbox->metadata, key);
            else
                (void)json_object_set(sandbox->metadata, key, value);
        }
        osb_record_save(sandbox);
        osb_http_reply_json(request, 200, sandbox_json(sandbox, true));
    }
    json_decref(patch);
}

void osb_api_pause(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (!sandbox)
        return;
    if (sandbox->state != OSB_RUNNING)
        osb_http_reply_error(request, 409, "DOCKER::SANDBOX_NOT_RUNNING", "Sandbox is not in a running state.");
    else if (!osb_sandbox_pause(sandbox))
        osb_http_reply_error(request, 500, "DOCKER::SANDBOX_PAUSE_FAILED", "The processes could not be stopped.");
    else
        osb_http_reply_empty(request, 202);
}

void osb_api_resume(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (!sandbox)
        return;
    if (sandbox->state != OSB_PAUSED)
        osb_http_reply_error(request, 409, "DOCKER::SANDBOX_NOT_PAUSED", "Sandbox is not in a paused state.");
    else if (!osb_sandbox_resume(sandbox))
        osb_http_reply_error(request, 500, "DOCKER::SANDBOX_RESUME_FAILED", "The processes could not be resumed.");
    else
        osb_http_reply_empty(request, 202);
}

/* Answers a renewal whose time is understood. */
static void renew(struct osb_http_request *request, struct osb_sandbox *sandbox, const struct timespec *time)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (time->tv_sec < now.tv_sec || (time->tv_sec == now.tv_sec && time->tv_nsec <= now.tv_nsec))
        osb_http_reply_error(request, 400, "DOCKER::INVALID_EXPIRATION", "New expiration time must be in the future.");
    else if (!sandbox->expires)
        osb_http_reply_error(request, 409, "DOCKER::INVALID_EXPIRATION",
                             "Sandbox %s does not have automatic expiration enabled.", sandbox->id);
    else if (!osb_sandbox_set_expiry(sandbox, time))
        osb_http_reply_error(request, 500, "GENERAL::UNKNOWN_ERROR", "Memory is out.");
    else
        osb_http_reply_json(request, 200, json_pack("{s:o}", "expiresAt", osb_json_time(time)));
}

void osb_api_renew(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    json_t *body = sandbox ? read_object(request) : NULL;
    if (!body)
        return;
    struct timespec time;
    const char *text = json_string_value(json_object_get(body, "expiresAt"));
    if (!text)
        osb_reply_unprocessable(request, "body", "expiresAt", "missing", "Field required");
    else if (!osb_rules_parse_time(text, &time))
        osb_reply_unprocessable(request, "body", "expiresAt", "datetime_parsing", "Input should be a valid datetime");
    else
        renew(request, sandbox, &time);
    json_decref(body);
}
