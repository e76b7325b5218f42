/* /proxy/{port}/…: services that listen on loopback in the sandbox. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "execd.h"

void osb_port_forward(struct osb_http_request *request, void *context)
{
    static const char *const secrets[] = {"x-execd-access-token", "x-forwarded-host", NULL};
    struct osb_execd *execd = context;
    const char *given = osb_http_request_param(request, 0), *rest = osb_http_request_rest(request);
    const char *origin = osb_http_request_header(request, "X-Forwarded-For");
    char *end = NULL;
    unsigned long port = given ? strtoul(given, &end, 10) : 0;
    if (port < 1 || port > 65535 || *end) {
        osb_http_reply_text(request, 400, "port is required\n");
        return;
    }
    char *url = NULL, *forwarded = NULL, resolve[64];
    /* by name, so that libcurl tries one address after the other */
    snprintf(resolve, sizeof resolve, "service.internal:%lu:127.0.0.1,[::1]", port);
    if (asprintf(&url, "http://service.internal:%lu%s%s", port, *rest == '/' ? "" : "/", rest) < 0)
        url = NULL;
    if (!origin)
        origin = osb_http_request_client(request);
    if (asprintf(&forwarded, "X-Forwarded-For: %.*s", (int)strcspn(origin, ","), origin) < 0)
        forwarded = NULL;
    if (url && forwarded) {
        const char *const add[] = {forwarded, "X-Forwarded-Proto: http", NULL};
        const struct osb_http_proxy_target target = {
            .url = url,
            .resolve = resolve,
            /* a way through to execd itself keeps the token, which no other service gets to see */
            .drop = port == execd->port ? secrets + 1 : secrets,
            .add = add,
        };
        osb_http_proxy_forward(execd->proxy, request, &target);
    } else {
        osb_http_reply_drop(request);
    }
    free(url);
    free(forwarded);
}
