/* Snapshots on the wire. */
#include <stdio.h>
#include <string.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/create.h"
#include "runtime/runtime/json_file.h"
#include "runtime/runtime/page.h"
#include "runtime/runtime/sandbox.h"
#include "runtime/runtime/snapshot.h"

static json_t *snapshot_json(const struct osb_snapshot *snapshot)
{
    return json_pack("{s:s, s:s, s:O*, s:{s:s, s:s, s:s, s:o}, s:o}", "id", snapshot->id, "sandboxId",
                     snapshot->sandbox_id, "name", snapshot->name, "status", "state", osb_snapshot_state_name(snapshot),
                     "reason", snapshot->reason, "message", snapshot->message, "lastTransitionAt",
                     osb_json_time(&snapshot->changed_at), "createdAt", osb_json_time(&snapshot->created_at));
}

/* The snapshot that the path names; else answers 404 and returns NULL. */
static struct osb_snapshot *find(struct osb_http_request *request, const struct osb_runtime *runtime)
{
    const char *id = osb_http_request_param(request, 0);
    struct osb_snapshot *snapshot = osb_snapshot_find(runtime, id);
    if (!snapshot)
        osb_http_reply_error(request, 404, "SNAPSHOT::NOT_FOUND", "Snapshot %.100s not found", id);
    return snapshot;
}

/* Answers a request whose body is understood; `name` is a string or NULL. */
static void create(struct osb_http_request *request, struct osb_sandbox *sandbox, json_t *name)
{
    if (sandbox->state != OSB_RUNNING) {
        osb_http_reply_error(request, 409, "SNAPSHOT::INVALID_SOURCE_STATE",
                             "Snapshot can only be created from a Running sandbox.");
        return;
    }
    const struct osb_snapshot *snapshot =
        sandbox->runtime->snapshot_count < OSB_MAX_SNAPSHOTS ? osb_snapshot_create(sandbox, name) : NULL;
    if (!snapshot) {
        osb_http_reply_error(request, 500, "GENERAL::UNKNOWN_ERROR",
                             "The snapshot could not be begun: the disk, memory or processes are out, or there are "
                             "%d already.",
                             OSB_MAX_SNAPSHOTS);
        return;
    }
    char location[64];
    snprintf(location, sizeof location, "/v1/snapshots/%s", snapshot->id);
    osb_http_reply_header(request, "Location", location);
    osb_http_reply_json(request, 202, snapshot_json(snapshot));
}

void osb_api_create_snapshot(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (!sandbox)
        return;
    size_t len;
    json_error_t error;
    json_t *body = NULL;
    (void)osb_http_request_body(request, &len);
    if (len > 0) {
        body = osb_http_request_json(request, &error);
        if (!body) {
            osb_reply_unprocessable(request, "body", NULL, "json_invalid", "JSON decode error");
            return;
        }
    }
    json_t *name = json_object_get(body, "name");
    if ((body && !json_is_object(body) && !json_is_null(body)) ||
        (name && !json_is_string(name) && !json_is_null(name)))
        osb_reply_unprocessable(request, "body", "name", "string_type", "Input should be a valid string");
    else
        create(request, sandbox, json_is_string(name) ? name : NULL);
    json_decref(body);
}

void osb_api_list_snapshots(struct osb_http_request *request, void *context)
{
    const struct osb_runtime *runtime = context;
    const char *sandbox = osb_http_request_query(request, "sandboxId");
    const char *name = osb_http_request_query(request, "name");
    struct osb_page page;
    if (!osb_page_read(&page, request))
        return;
    for (const struct osb_snapshot *snapshot = runtime->snapshots; snapshot; snapshot = snapshot->next) {
        const char *own = json_string_value(snapshot->name);
        if (osb_page_wants(&page, osb_snapshot_state_name(snapshot)) &&
            (!sandbox || strcmp(sandbox, snapshot->sandbox_id) == 0) && (!name || (own && strcmp(name, own) == 0)) &&
            osb_page_takes(&page))
            (void)json_array_append_new(page.items, snapshot_json(snapshot));
    }
    osb_page_reply(&page, request);
}

void osb_api_get_snapshot(struct osb_http_request *request, void *context)
{
    const struct osb_snapshot *snapshot = find(request, context);
    if (snapshot)
        osb_http_reply_json(request, 200, snapshot_json(snapshot));
}

/* A sandbox is being made from it. */
static bool is_read(const struct osb_snapshot *snapshot)
{
    for (const struct osb_sandbox *next = snapshot->runtime->sandboxes; next; next = next->next) {
        if (next->restore && strcmp(json_string_value(next->snapshot_id), snapshot->id) == 0)
            return true;
    }
    return false;
}

void osb_api_delete_snapshot(struct osb_http_request *request, void *context)
{
    struct osb_snapshot *snapshot = find(request, context);
    if (!snapshot)
        return;
    if (snapshot->state == OSB_SNAPSHOT_CREATING || is_read(snapshot)) {
        osb_http_reply_error(request, 409, "SNAPSHOT::INVALID_STATE",
                             "Snapshot %s is still being created, or a sandbox is being made from it, and cannot be "
                             "deleted",
                             snapshot->id);
        return;
    }
    osb_snapshot_delete(snapshot);
    osb_http_reply_empty(request, 204);
}
