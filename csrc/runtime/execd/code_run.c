/* Running code in a context: the interpreter's messages become the events of a stream. */
#include <stdio.h>
#include <string.h>

#include "code_context.h"
#include "event.h"
#include "run.h"
#include "runtime/shared/text.h"

#define PING_INTERVAL 3000           /* ms */
#define EVENT_MAX ((size_t)16 << 20) /* bytes of an event, as clients bound their frames */

static const char too_long[] = "a result too long for one event was left out\n";
static const char *const channels[] = {"stdout", "stderr"};

static struct osb_buf *run_buffer(struct osb_code_context *context)
{
    return context->stream ? osb_http_stream_buffer(context->stream) : &context->dropped;
}

/* Sends what was appended to the buffer; `written` false: memory was out, and the client must not take what it has for
 * all. */
static void run_send(struct osb_code_context *context, bool written)
{
    if (context->stream && !written) {
        osb_http_stream_cut(context->stream);
        context->stream = NULL;
    }
    if (context->stream && !osb_http_stream_flush(context->stream) && context->interpreter)
        osb_interpreter_pause(context->interpreter, true);
    osb_buf_clear(&context->dropped);
}

static void ping_fired(void *data)
{
    struct osb_code_context *context = data;
    if (context->stream && !osb_http_stream_is_full(context->stream))
        run_send(context, osb_event_ping(run_buffer(context)));
    osb_timer_start(context->execd->loop, &context->ping, PING_INTERVAL, ping_fired, context);
}

/* Length of an unfinished character at the end, at most 3. */
static size_t cut_length(const char *bytes, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char byte = (unsigned char)bytes[len - back];
        if (byte < 0x80)
            return 0;
        if (byte >= 0xc0)
            return back < (byte >= 0xf0 ? 4u : byte >= 0xe0 ? 3u : 2u) ? back : 0;
    }
    return 0;
}

/* Sends a piece of output, without a character at its end that is not complete yet. */
static void took_output(void *data, int channel, const char *bytes, size_t len)
{
    struct osb_code_context *context = data;
    struct osb_buf whole = {0};
    bool written = true;
    if (context->cut[channel].len > 0) {
        written = osb_buf_append(&whole, context->cut[channel].bytes, context->cut[channel].len) &&
                  osb_buf_append(&whole, bytes, len);
        bytes = osb_buf_data(&whole);
        len = whole.len;
    }
    size_t cut = cut_length(bytes, len);
    memcpy(context->cut[channel].bytes, bytes + len - cut, cut);
    context->cut[channel].len = cut;
    written = written && osb_event_text(run_buffer(context), channels[channel], bytes, len - cut, osb_event_time());
    osb_buf_free(&whole);
    run_send(context, written);
}

static bool append_count(struct osb_code_context *context)
{
    if (context->counted)
        return true;
    context->counted = true;
    return osb_event_count(run_buffer(context), context->count);
}

static bool append_result(struct osb_code_context *context, const json_t *data)
{
    struct osb_buf *out = run_buffer(context);
    if (!append_count(context))
        return false;
    size_t before = out->len;
    if (!osb_event_result(out, data))
        return false;
    if (out->len - before <= EVENT_MAX)
        return true;
    out->len = before;
    return osb_event_text(out, "stderr", too_long, sizeof too_long - 1, osb_event_time());
}

static bool append_failure(struct osb_code_context *context, const json_t *failure)
{
    struct osb_buf *out = run_buffer(context);
    return osb_event_text(out, "status", "error", 5, osb_event_time()) && osb_event_failure(out, failure);
}

/* The code ended, or its shell, with an exit status that isn't 0. */
static bool append_status(struct osb_code_context *context, int status, const char *description)
{
    struct osb_buf *out = run_buffer(context);
    char value[16];
    snprintf(value, sizeof value, "%d", status);
    return osb_event_text(out, "status", "error", 5, osb_event_time()) && osb_event_error(out, value, description);
}

static void run_finish(struct osb_code_context *context, bool written)
{
    for (size_t i = 0; i < 2; i++) {
        written = written && osb_event_text(run_buffer(context), channels[i], context->cut[i].bytes,
                                            context->cut[i].len, osb_event_time());
        context->cut[i].len = 0;
    }
    written = written && append_count(context) &&
              osb_event_complete(run_buffer(context), osb_evloop_now() - context->started);
    run_send(context, written);
    if (context->stream)
        osb_http_stream_end(context->stream);
    if (context->interpreter)
        osb_interpreter_pause(context->interpreter, false);
    context->stream = NULL;
    context->running = false;
    osb_timer_stop(context->execd->loop, &context->ping);
}

static void took_message(void *data, const json_t *message)
{
    struct osb_code_context *context = data;
    const json_t *result = json_object_get(message, "result"), *failure = json_object_get(message, "error"),
                 *done = json_object_get(message, "done");
    bool written = true;
    if (json_is_object(result))
        written = append_result(context, result);
    else if (json_is_object(failure))
        written = append_failure(context, failure);
    else if (json_object_get(message, "too_long"))
        written = osb_event_text(run_buffer(context), "stderr", too_long, sizeof too_long - 1, osb_event_time());
    if (!done) {
        run_send(context, written);
        return;
    }
    int status = (int)json_integer_value(done);
    char description[64];
    snprintf(description, sizeof description, "exit status %d", status);
    run_finish(context, written && (status == 0 || append_status(context, status, description)));
}

/* The interpreter has ended; a shell may do that by `exit`. */
static void took_end(void *data, int status)
{
    struct osb_code_context *context = data;
    char description[64];
    context->interpreter = NULL;
    if (!context->running)
        return;
    osb_child_describe(status, description);
    if (context->driver->shell) {
        run_finish(context, status == 0 || append_status(context, osb_child_exit_code(status), description));
        return;
    }
    json_t *failure = json_pack("{s:s, s:o, s:[]}", "ename", "InterpreterEnded", "evalue",
                                json_sprintf("the %s interpreter has ended (%s): what the context held is lost",
                                             context->driver->language, description),
                                "traceback");
    run_finish(context, failure && append_failure(context, failure));
    json_decref(failure);
}

/* ---- the client ---- */

static void client_drained(void *data)
{
    const struct osb_code_context *context = data;
    if (context->interpreter)
        osb_interpreter_pause(context->interpreter, false);
}

/* The code goes on, as in the original server. */
static void client_gone(void *data)
{
    struct osb_code_context *context = data;
    osb_http_stream_end(context->stream);
    context->stream = NULL;
    client_drained(context);
}

/* ---- start and end ---- */

bool osb_code_start(struct osb_code_context *context, char error[OSB_CHILD_ERROR_SIZE])
{
    const struct osb_interpreter_events events = {
        .output = took_output, .message = took_message, .ended = took_end, .context = context};
    if (!context->interpreter)
        context->interpreter = osb_interpreter_start(context->execd, context->driver, context->cwd, &events, error);
    return context->interpreter != NULL;
}

static void reply_busy(const struct osb_code_context *context, struct osb_http_request *request)
{
    struct osb_buf events = {0};
    if (osb_event_text(&events, "init", context->id, strlen(context->id), osb_event_time()) &&
        osb_event_ping(&events) &&
        osb_buf_append_str(&events,
                           "{\"code\":\"" OSB_RUNTIME_ERROR "\",\"message\":\"error running codes session is busy\"}"))
        osb_run_reply_events(request, &events);
    else
        osb_http_reply_drop(request);
    osb_buf_free(&events);
}

void osb_code_run_in(struct osb_code_context *context, struct osb_http_request *request, const char *code, size_t len)
{
    char error[OSB_CHILD_ERROR_SIZE];
    if (context->running) {
        reply_busy(context, request);
        return;
    }
    if (!osb_code_start(context, error) || !osb_interpreter_run(context->interpreter, code, len)) {
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error running codes %s",
                             context->interpreter ? "out of memory" : error);
        return;
    }
    const struct osb_http_stream_events events = {.drain = client_drained, .gone = client_gone, .context = context};
    context->running = true;
    context->counted = false;
    context->count++;
    context->started = osb_evloop_now();
    osb_run_add_headers(request);
    context->stream = osb_http_reply_stream(request, 200, OSB_HTTP_CHUNKED, &events);
    bool written = osb_event_text(run_buffer(context), "init", context->id, strlen(context->id), osb_event_time()) &&
                   osb_event_ping(run_buffer(context));
    run_send(context, written);
    osb_timer_start(context->execd->loop, &context->ping, PING_INTERVAL, ping_fired, context);
}

void osb_code_end(struct osb_code_context *context, bool cut)
{
    if (context->interpreter)
        osb_interpreter_kill(context->interpreter);
    context->interpreter = NULL;
    if (cut && context->stream) {
        osb_http_stream_cut(context->stream);
        context->stream = NULL;
    }
    if (context->running) {
        json_t *failure = json_pack("{s:s, s:s, s:[]}", "ename", "ContextDeleted", "evalue",
                                    "the context was deleted while its code ran", "traceback");
        run_finish(context, failure && append_failure(context, failure));
        json_decref(failure);
    }
    osb_buf_free(&context->dropped);
}
