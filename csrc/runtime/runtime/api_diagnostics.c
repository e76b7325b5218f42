/* Diagnostics as plain text, for people; the form with a scope is not served, as by the official server. */
#include <stdio.h>
#include <stdlib.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/diary.h"
#include "runtime/runtime/sandbox.h"

#define MOST_LINES 10000
#define MOST_EVENTS 500

static void reply(struct osb_http_request *request, const struct osb_buf *text)
{
    osb_http_reply_header(request, "Deprecation", "true");
    osb_http_reply_bytes(request, 200, "text/plain; charset=utf-8", osb_buf_data(text), text->len);
}

/* False when it answered the request. */
static bool is_plain(struct osb_http_request *request)
{
    if (!osb_http_request_query(request, "scope"))
        return true;
    osb_http_reply_error(request, 501, "DIAGNOSTICS_NOT_IMPLEMENTED",
                         "The stable Diagnostics API is not implemented by this OpenSandbox server.");
    return false;
}

/* Answers with the last lines of one part of the diary; `name` is the query's word for how many. */
static void tail(struct osb_http_request *request, const struct osb_buf *text, const char *name, long most,
                 long missing)
{
    long lines = osb_api_count(request, name, most, missing);
    if (lines < 0)
        return;
    struct osb_slice last = osb_diary_tail(text, (size_t)lines);
    osb_http_reply_header(request, "Deprecation", "true");
    osb_http_reply_bytes(request, 200, "text/plain; charset=utf-8", last.ptr, last.len);
}

void osb_api_diagnostic_logs(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = is_plain(request) ? osb_api_sandbox(request, context) : NULL;
    if (sandbox)
        tail(request, &sandbox->diary.logs, "tail", MOST_LINES, 100);
}

void osb_api_diagnostic_events(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = is_plain(request) ? osb_api_sandbox(request, context) : NULL;
    if (sandbox)
        tail(request, &sandbox->diary.events, "limit", MOST_EVENTS, 50);
}

void osb_api_diagnostic_inspect(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    json_t *value = sandbox ? osb_api_sandbox_json(sandbox) : NULL;
    char *dump = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    struct osb_buf text = {0};
    if (dump && osb_buf_printf(&text, "%s\n", dump))
        reply(request, &text);
    else if (sandbox)
        osb_http_reply_drop(request);
    osb_buf_free(&text);
    free(dump);
    json_decref(value);
}

void osb_api_diagnostic_summary(struct osb_http_request *request, void *context)
{
    const struct osb_sandbox *sandbox = osb_api_sandbox(request, context);
    if (!sandbox)
        return;
    json_t *value = osb_api_sandbox_json(sandbox);
    char *dump = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    const struct osb_slice events = osb_diary_tail(&sandbox->diary.events, 20);
    const struct osb_slice logs = osb_diary_tail(&sandbox->diary.logs, 50);
    struct osb_buf text = {0};
    if (dump && osb_buf_printf(&text, "SANDBOX %s\n\nINSPECT\n%s\n\nEVENTS\n%.*s\nLOGS\n%.*s", sandbox->id, dump,
                               (int)events.len, events.ptr, (int)logs.len, logs.ptr))
        reply(request, &text);
    else
        osb_http_reply_drop(request);
    osb_buf_free(&text);
    free(dump);
    json_decref(value);
}
