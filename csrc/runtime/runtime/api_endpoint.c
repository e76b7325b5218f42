#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/create.h"
#include "runtime/runtime/sandbox.h"

#define TOKEN_HEADER "X-EXECD-ACCESS-TOKEN"

/* The port of the path's second parameter; else answers 400 or 422 and returns 0. */
static long read_port(struct osb_http_request *request)
{
    const char *text = osb_http_request_param(request, 1);
    long port = osb_api_number(text, 1000000);
    if (port >= 1 && port <= 65535)
        return port;
    if (port < 0)
        osb_reply_unprocessable(request, "path", "port", "int_parsing", "Input should be a valid integer");
    else
        osb_http_reply_error(request, 400, "DOCKER::INVALID_PORT", "Port must be between 1 and 65535.");
    return 0;
}

static bool is_true(const char *text)
{
    static const char *const words[] = {"1", "true", "on", "t", "y", "yes"};
    bool found = false;
    for (size_t i = 0; i < sizeof words / sizeof *words && text && !found; i++)
        found = strcasecmp(text, words[i]) == 0;
    return found;
}

void osb_api_endpoint(struct osb_http_request *request, void *context)
{
    const bool by_server = is_true(osb_http_request_query(request, "use_server_proxy"));
    const bool is_signed = osb_http_request_query(request, "expires") != NULL;
    if (is_signed) {
        osb_http_reply_error(request, 400, by_server ? "SANDBOX::INVALID_PARAMETER" : "SANDBOX::API_NOT_SUPPORTED",
                             by_server ? "use_server_proxy cannot be combined with expires."
                                       : "This runtime has no signed routes (expires).");
        return;
    }
    const struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    const long port = sandbox ? read_port(request) : 0;
    if (!port)
        return;
    if (!*sandbox->address) {
        osb_http_reply_error(request, 409, "DOCKER::SANDBOX_NOT_RUNNING", "Sandbox is not in a running state.");
        return;
    }
    const char *host = osb_http_request_header(request, "Host");
    if (port == OSB_EGRESS_API_PORT && sandbox->network == OSB_NETWORK_PROXY) {
        osb_http_reply_json(request, 200,
                            json_pack("{s:o, s:{s:s}}", "endpoint",
                                      json_sprintf("%s/sandboxes/%s/proxy/%d", host ? host : "localhost", sandbox->id,
                                                   OSB_EGRESS_API_PORT),
                                      "headers", OSB_EGRESS_TOKEN_HEADER, sandbox->egress_token));
        return;
    }
    json_t *endpoint;
    /* only use through this server can be seen, and renew */
    if (by_server || !sandbox->own_address || sandbox->renew_seconds > 0)
        endpoint = json_sprintf("%s/sandboxes/%s/proxy/%ld", host ? host : "localhost", sandbox->id, port);
    else if (port == OSB_EXECD_PORT)
        endpoint = json_string(sandbox->address);
    else
        endpoint = json_sprintf("%s/proxy/%ld", sandbox->address, port);
    osb_http_reply_json(request, 200,
                        json_pack("{s:o, s:{s:s}}", "endpoint", endpoint, "headers", TOKEN_HEADER, sandbox->token));
}

/* ---- proxy ---- */

static void unreachable(struct osb_http_request *request, const char *reason, void *context)
{
    (void)context;
    osb_http_reply_error(request, 502, "GENERAL::UNKNOWN_ERROR", "Could not connect to the backend sandbox: %s",
                         reason);
}

void osb_api_proxy(struct osb_http_request *request, void *context)
{
    static const char *const dropped[] = {"Authorization", "Cookie", "OPEN-SANDBOX-API-KEY", NULL};
    const struct osb_runtime *runtime = context;
    struct osb_sandbox *sandbox = osb_api_sandbox(request, runtime);
    const long port = sandbox ? read_port(request) : 0;
    if (!port)
        return;
    const char *upgrade = osb_http_request_header(request, "Upgrade");
    if (upgrade && strcasecmp(upgrade, "websocket") == 0) {
        osb_http_reply_error(request, 501, "SANDBOX::API_NOT_SUPPORTED", "WebSocket is not proxied yet.");
        return;
    }
    if (sandbox->state != OSB_RUNNING) {
        osb_http_reply_error(request, 409, "DOCKER::SANDBOX_NOT_RUNNING", "Sandbox is not in a running state.");
        return;
    }
    const char *token = osb_http_request_header(request, TOKEN_HEADER);
    if (token && osb_api_same_secret(sandbox->token, token))
        osb_sandbox_touch(sandbox);
    const char *rest = osb_http_request_rest(request);
    struct osb_buf url = {0};
    bool fits = osb_buf_printf(&url, "http://%s", sandbox->address) &&
                (port == OSB_EXECD_PORT || osb_buf_printf(&url, "/proxy/%ld", port)) &&
                (*rest == '/' || osb_buf_append_str(&url, "/")) && osb_buf_append_str(&url, rest) &&
                osb_buf_append_byte(&url, '\0');
    if (fits) {
        const struct osb_http_proxy_target target = {.url = osb_buf_data(&url), .drop = dropped, .failed = unreachable};
        osb_http_proxy_forward(runtime->proxy, request, &target);
    } else {
        osb_http_reply_drop(request);
    }
    osb_buf_free(&url);
}
