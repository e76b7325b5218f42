#include "runtime/runtime/api.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/runtime/create.h"
#include "runtime/runtime/sandbox.h"

#define API_KEY_HEADER "OPEN-SANDBOX-API-KEY"
#define MOUNT "/v1"

struct osb_sandbox *osb_api_sandbox(struct osb_http_request *request, const struct osb_runtime *runtime)
{
    const char *id = osb_http_request_param(request, 0);
    struct osb_sandbox *sandbox = osb_sandbox_find(runtime, id);
    if (!sandbox)
        osb_http_reply_error(request, 404, "DOCKER::SANDBOX_NOT_FOUND", "Sandbox %.100s not found.", id);
    return sandbox;
}

long osb_api_number(const char *text, long most)
{
    char *end;
    long number = isdigit((unsigned char)*text) ? strtol(text, &end, 10) : -1;
    return number >= 0 && !*end && number <= most ? number : -1;
}

long osb_api_count(struct osb_http_request *request, const char *name, long most, long missing)
{
    const char *text = osb_http_request_query(request, name);
    if (!text)
        return missing;
    long number = osb_api_number(text, most);
    if (number >= 1)
        return number;
    char message[64];
    snprintf(message, sizeof message, "Input should be a whole number from 1 to %ld", most);
    osb_reply_unprocessable(request, "query", name, "value_error", message);
    return -1;
}

/* ---- what is not served ---- */

static void health(struct osb_http_request *request, void *context)
{
    (void)context;
    osb_http_reply_json(request, 200, json_pack("{s:s}", "status", "healthy"));
}

static void take_event(struct osb_http_request *request, void *context)
{
    (void)context;
    osb_http_reply_empty(request, 204);
}

static void no_pools(struct osb_http_request *request, void *context)
{
    (void)context;
    osb_http_reply_error(request, 501, "KUBERNETES::POOL_NOT_SUPPORTED", "This runtime has no pools.");
}

/* Each is served below "/" and below MOUNT. */
static const struct osb_http_route routes[] = {
    {"POST", "/sandboxes", osb_api_create, false},
    {"GET", "/sandboxes", osb_api_list, false},
    {"GET", "/sandboxes/:id", osb_api_get, false},
    {"DELETE", "/sandboxes/:id", osb_api_delete, false},
    {"PATCH", "/sandboxes/:id/metadata", osb_api_patch_metadata, false},
    {"POST", "/sandboxes/:id/pause", osb_api_pause, false},
    {"POST", "/sandboxes/:id/resume", osb_api_resume, false},
    {"POST", "/sandboxes/:id/renew-expiration", osb_api_renew, false},
    {"GET", "/sandboxes/:id/endpoints/:port", osb_api_endpoint, false},
    {"*", OSB_EGRESS_API_PATH, osb_api_egress, false},
    {"*", "/sandboxes/:id/proxy/:port/*", osb_api_proxy, true},
    {"GET", "/health", health, false},
    {"POST", "/metrics/events", take_event, false},
    {"POST", "/sandboxes/:id/snapshots", osb_api_create_snapshot, false},
    {"GET", "/snapshots", osb_api_list_snapshots, false},
    {"GET", "/snapshots/:id", osb_api_get_snapshot, false},
    {"DELETE", "/snapshots/:id", osb_api_delete_snapshot, false},
    {"GET", "/sandboxes/:id/diagnostics/logs", osb_api_diagnostic_logs, false},
    {"GET", "/sandboxes/:id/diagnostics/events", osb_api_diagnostic_events, false},
    {"GET", "/sandboxes/:id/diagnostics/inspect", osb_api_diagnostic_inspect, false},
    {"GET", "/sandboxes/:id/diagnostics/summary", osb_api_diagnostic_summary, false},
    {"*", "/pools/*", no_pools, false},
};

#define ROUTES (sizeof routes / sizeof *routes)

/* ---- who may ---- */

bool osb_api_same_secret(const char *own, const char *given)
{
    const size_t len = strlen(given);
    bool same = strlen(own) == len;
    unsigned char differs = 0;
    for (size_t i = 0; i < len && same; i++)
        differs |= (unsigned char)(own[i] ^ given[i]);
    return same && differs == 0;
}

/* [/v1]/sandboxes/ID/proxy/PORT…: guarded by the sandbox's own token. */
static bool is_proxy_path(const char *target)
{
    static const char prefix[] = "/sandboxes/";
    static const char middle[] = "/proxy/";
    const size_t len = strcspn(target, "?");
    for (size_t i = 0; i + 1 < len; i++) {
        if (target[i] == '.' && target[i + 1] == '.')
            return false;
    }
    if (strncmp(target, MOUNT "/", strlen(MOUNT "/")) == 0)
        target += strlen(MOUNT);
    if (strncmp(target, prefix, strlen(prefix)) != 0)
        return false;
    target += strlen(prefix);
    size_t id = strcspn(target, "/?");
    if (id == 0 || strncmp(target + id, middle, strlen(middle)) != 0)
        return false;
    target += id + strlen(middle);
    size_t digits = strspn(target, "0123456789");
    return digits > 0 && (target[digits] == '\0' || target[digits] == '/' || target[digits] == '?');
}

static bool authorize(struct osb_http_request *request, void *context)
{
    const struct osb_runtime *runtime = context;
    const char *target = osb_http_request_target(request);
    if (strncmp(target, "/health", strlen("/health")) == 0 || is_proxy_path(target) || !*runtime->api_key)
        return true;
    const char *key = osb_http_request_header(request, API_KEY_HEADER);
    if (!key || !*key) {
        osb_http_reply_error(request, 401, "MISSING_API_KEY",
                             "Authentication credentials are missing. Provide API key via " API_KEY_HEADER " header.");
        return false;
    }
    if (!osb_api_same_secret(runtime->api_key, key)) {
        osb_http_reply_error(request, 401, "INVALID_API_KEY",
                             "Authentication credentials are invalid. Check your API key and try again.");
        return false;
    }
    return true;
}

static void no_route(struct osb_http_request *request, bool other_method, void *context)
{
    (void)context;
    osb_http_reply_json(request, other_method ? 405 : 404,
                        json_pack("{s:s}", "detail", other_method ? "Method Not Allowed" : "Not Found"));
}

struct osb_http_server *osb_api_serve(struct osb_runtime *runtime, int listen_fd)
{
    static char paths[ROUTES][64];
    static struct osb_http_route all[2 * ROUTES];
    for (size_t i = 0; i < ROUTES; i++) {
        snprintf(paths[i], sizeof paths[i], MOUNT "%s", routes[i].path);
        all[i] = routes[i];
        all[ROUTES + i] = routes[i];
        all[ROUTES + i].path = paths[i];
    }
    const struct osb_http_config config = {
        .loop = runtime->loop,
        .listen_fd = listen_fd,
        .routes = all,
        .route_count = 2 * ROUTES,
        .context = runtime,
        .authorize = authorize,
        .no_route = no_route,
        .request_ids = true,
    };
    return osb_http_server_new(&config);
}
