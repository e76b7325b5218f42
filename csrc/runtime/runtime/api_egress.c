/* The policy of a sandbox's proxy, as the official egress sidecar serves it: errors are plain text. */
#include <stdio.h>
#include <string.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/sandbox.h"

static void reply_text(struct osb_http_request *request, unsigned int status, const char *text)
{
    char line[512];
    snprintf(line, sizeof line, "%s\n", text);
    osb_http_reply_text(request, status, line);
}

static void reply_status(struct osb_http_request *request, const struct osb_policy *policy, const char *reason,
                         bool with_policy)
{
    json_t *body = json_pack("{s:s, s:s, s:s, s:s*}", "status", "ok", "mode", osb_policy_mode(policy),
                             "enforcementMode", "proxy", "reason", reason);
    if (body && with_policy)
        (void)json_object_set_new(body, "policy", osb_policy_json(policy));
    osb_http_reply_json(request, 200, body);
}

/* Puts a new policy in force and answers; `policy` NULL answers with what is wrong. */
static void commit(struct osb_http_request *request, struct osb_egress *egress, struct osb_policy *policy,
                   const struct osb_policy_error *error, const char *what)
{
    if (policy) {
        osb_egress_set_policy(egress, policy);
        reply_status(request, policy, NULL, false);
    } else {
        char text[sizeof error->text + 64];
        snprintf(text, sizeof text, "%s%s", error->too_many ? "" : what, error->text);
        reply_text(request, error->too_many ? 413 : 400, text);
    }
}

/* The body as an array with something in it; else answers and returns NULL. */
static json_t *read_array(struct osb_http_request *request, const char *what)
{
    char text[JSON_ERROR_TEXT_LENGTH + 64];
    json_error_t error;
    json_t *body = osb_http_request_json(request, &error);
    if (json_array_size(body) > 0)
        return body;
    if (!body && strcmp(error.text, "EOF") == 0)
        snprintf(text, sizeof text, "empty body");
    else
        snprintf(text, sizeof text, "invalid %s: %s", what,
                 !body                 ? error.text
                 : json_is_array(body) ? "empty array"
                                       : "no array");
    json_decref(body);
    reply_text(request, 400, text);
    return NULL;
}

static void replace_policy(struct osb_http_request *request, struct osb_egress *egress)
{
    json_error_t syntax;
    struct osb_policy_error error = {.too_many = false};
    json_t *body = osb_http_request_json(request, &syntax);
    if (!body && strcmp(syntax.text, "EOF") == 0) {
        struct osb_policy *policy = osb_policy_new(false);
        if (policy) {
            osb_egress_set_policy(egress, policy);
            reply_status(request, policy, "policy reset to default deny-all", false);
        } else {
            osb_http_reply_drop(request);
        }
        return;
    }
    struct osb_policy *policy = NULL;
    if (!body)
        snprintf(error.text, sizeof error.text, "%s", syntax.text);
    else if (json_is_null(body))
        policy = osb_policy_new(false);
    else
        policy = osb_policy_parse(body, &error);
    commit(request, egress, policy, &error, "invalid policy: ");
    json_decref(body);
}

static void patch_policy(struct osb_http_request *request, struct osb_egress *egress)
{
    struct osb_policy_error error;
    json_t *rules = read_array(request, "patch rules");
    if (rules)
        commit(request, egress, osb_policy_patch(osb_egress_policy(egress), rules, &error), &error,
               "invalid patch rules: ");
    json_decref(rules);
}

static void delete_rules(struct osb_http_request *request, struct osb_egress *egress)
{
    struct osb_policy_error error;
    size_t removed;
    size_t index;
    const json_t *target;
    json_t *targets = read_array(request, "delete targets");
    bool valid = targets != NULL;
    json_array_foreach(targets, index, target) valid = valid && json_is_string(target);
    if (valid) {
        struct osb_policy *policy = osb_policy_remove(osb_egress_policy(egress), targets, &removed, &error);
        if (policy && removed == 0) {
            osb_policy_free(policy);
            reply_status(request, osb_egress_policy(egress), "no matching targets found", false);
        } else {
            commit(request, egress, policy, &error, "");
        }
    } else if (targets) {
        reply_text(request, 400, "invalid delete targets: they are strings");
    }
    json_decref(targets);
}

static void serve_policy(struct osb_http_request *request, struct osb_egress *egress)
{
    const char *method = osb_http_request_method(request);
    if (strcmp(method, "GET") == 0) {
        reply_status(request, osb_egress_policy(egress), NULL, true);
    } else if (strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0) {
        replace_policy(request, egress);
    } else if (strcmp(method, "PATCH") == 0) {
        patch_policy(request, egress);
    } else if (strcmp(method, "DELETE") == 0) {
        delete_rules(request, egress);
    } else {
        osb_http_reply_header(request, "Allow", "GET, POST, PUT, PATCH, DELETE");
        reply_text(request, 405, "method not allowed");
    }
}

/* There is no interception of TLS, so there can be no vault: what the sidecar says without it. */
static void serve_vault(struct osb_http_request *request)
{
    const char *method = osb_http_request_method(request);
    if (strcmp(method, "GET") == 0)
        reply_text(request, 404, "credential vault not found");
    else
        reply_text(request, 412,
                   "credential vault requires transparent mitmproxy, which this runtime has not: it looks into no TLS");
}

static bool is_below(const char *path, size_t len, const char *prefix)
{
    const size_t size = strlen(prefix);
    return len >= size && memcmp(path, prefix, size) == 0 && (len == size || path[size] == '/');
}

static void serve(struct osb_http_request *request, struct osb_sandbox *sandbox, const char *path, size_t len)
{
    osb_sandbox_touch(sandbox);
    if (len == strlen("/policy") && is_below(path, len, "/policy"))
        serve_policy(request, sandbox->egress);
    else if (is_below(path, len, "/credential-vault"))
        serve_vault(request);
    else
        reply_text(request, 404, "404 page not found");
}

void osb_api_egress(struct osb_http_request *request, void *context)
{
    struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (!sandbox)
        return;
    const char *path = osb_http_request_rest(request);
    const size_t len = strcspn(path, "?");
    const char *token = osb_http_request_header(request, OSB_EGRESS_TOKEN_HEADER);
    if (!sandbox->egress && sandbox->state != OSB_RUNNING && sandbox->state != OSB_PAUSED)
        osb_http_reply_error(request, 409, "DOCKER::SANDBOX_NOT_RUNNING", "Sandbox is not in a running state.");
    else if (!sandbox->egress)
        osb_http_reply_error(request, 502, "GENERAL::UNKNOWN_ERROR",
                             "Could not connect to the backend sandbox: it has no egress policy, because its network "
                             "mode is not \"proxy\".");
    else if (len == strlen("/healthz") && is_below(path, len, "/healthz"))
        osb_http_reply_text(request, 200, "ok");
    else if (!token || !osb_api_same_secret(sandbox->egress_token, token))
        reply_text(request, 401, "unauthorized");
    else
        serve(request, sandbox, path, len);
}
