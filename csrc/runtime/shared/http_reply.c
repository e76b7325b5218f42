#include "runtime/shared/http_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/shared/text.h"

#define JSON_TYPE "application/json; charset=utf-8"
#define TEXT_TYPE "text/plain; charset=utf-8"
#define SIZED_BLOCK ((size_t)64 << 10) /* piece in which a body of known size is handed on */
#define CHUNKED_BLOCK ((size_t)4 << 10)

void osb_http_reply_header(struct osb_http_request *request, const char *name, const char *value)
{
    struct osb_http_header *header = calloc(1, sizeof *header);
    struct osb_http_header **end = &request->headers;
    if (header && (header->name = strdup(name)) && (header->value = strdup(value))) {
        while (*end)
            end = &(*end)->next;
        *end = header;
        return;
    }
    if (header)
        free(header->name);
    free(header);
    request->broken = true;
}

void osb_http_reply_bytes(struct osb_http_request *request, unsigned int status, const char *type, const void *bytes,
                          size_t len)
{
    union {
        const void *in;
        void *out;
    } data = {.in = bytes}; /* libmicrohttpd copies; its parameter is not const */
    struct MHD_Response *response = MHD_create_response_from_buffer(len, data.out, MHD_RESPMEM_MUST_COPY);
    if (response && type && MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) != MHD_YES) {
        MHD_destroy_response(response);
        response = NULL;
    }
    osb_http_request_answer(request, status, response);
}

void osb_http_reply_text(struct osb_http_request *request, unsigned int status, const char *text)
{
    osb_http_reply_bytes(request, status, TEXT_TYPE, text, strlen(text));
}

void osb_http_reply_empty(struct osb_http_request *request, unsigned int status)
{
    osb_http_reply_bytes(request, status, NULL, "", 0);
}

void osb_http_reply_json(struct osb_http_request *request, unsigned int status, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(body);
    if (!text) {
        osb_http_reply_drop(request);
        return;
    }
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(text);
    else if (MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, JSON_TYPE) != MHD_YES) {
        MHD_destroy_response(response);
        response = NULL;
    }
    osb_http_request_answer(request, status, response);
}

void osb_http_reply_error(struct osb_http_request *request, unsigned int status, const char *code, const char *format,
                          ...)
{
    char *message = NULL;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&message, format, args);
    va_end(args);
    if (len < 0) {
        osb_http_reply_drop(request);
        return;
    }
    json_t *text = osb_json_text(message, (size_t)len);
    free(message);
    osb_http_reply_json(request, status, json_pack("{s:s, s:o}", "code", code, "message", text));
}

void osb_http_reply_file(struct osb_http_request *request, unsigned int status, int fd, uint64_t offset, uint64_t size)
{
    struct MHD_Response *response = MHD_create_response_from_fd_at_offset64(size, fd, offset);
    if (!response)
        close(fd);
    osb_http_request_answer(request, status, response);
}

void osb_http_reply_drop(struct osb_http_request *request)
{
    osb_http_request_answer(request, 0, NULL);
}

/* ---- streams ---- */

struct osb_http_stream {
    struct osb_http_server *server;
    struct osb_http_request *request; /* NULL once it is over */
    bool attached;                    /* libmicrohttpd may still read it */
    struct osb_buf queue;
    struct osb_http_stream_events events;
    bool released; /* the owner has ended it */
    bool cut;
    bool gone;
    bool was_full;
    bool tell_drain, tell_gone, notifying;
    struct osb_http_stream *notify_next;
};

static void stream_free_unused(struct osb_http_stream *stream)
{
    if (!stream->released || stream->attached || stream->notifying)
        return;
    osb_buf_free(&stream->queue);
    free(stream);
}

/* Has the owner told in the server's next turn: never from within libmicrohttpd. */
static void stream_notify(struct osb_http_stream *stream)
{
    if (stream->notifying)
        return;
    stream->notifying = true;
    stream->notify_next = stream->server->notify;
    stream->server->notify = stream;
}

bool osb_http_server_notify(struct osb_http_server *server)
{
    bool any = server->notify != NULL;
    struct osb_http_stream *list = server->notify;
    server->notify = NULL;
    while (list) {
        struct osb_http_stream *stream = list;
        list = stream->notify_next;
        if (stream->tell_drain && !stream->released && !stream->gone && stream->events.drain) {
            stream->tell_drain = false;
            stream->events.drain(stream->events.context);
        }
        if (stream->tell_gone && !stream->released && stream->events.gone) {
            stream->tell_gone = false;
            stream->events.gone(stream->events.context);
        }
        stream->notifying = false;
        stream_free_unused(stream);
    }
    return any;
}

void osb_http_stream_lost(struct osb_http_stream *stream)
{
    if (stream->gone)
        return;
    stream->gone = true;
    stream->tell_gone = true;
    osb_buf_free(&stream->queue);
    stream_notify(stream);
    if (stream->request)
        osb_http_request_wake(stream->request);
}

static ssize_t stream_read(void *context, uint64_t position, char *out, size_t max)
{
    struct osb_http_stream *stream = context;
    (void)position;
    if (stream->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (stream->queue.len > 0) {
        size_t len = stream->queue.len < max ? stream->queue.len : max;
        memcpy(out, osb_buf_data(&stream->queue), len);
        osb_buf_consume(&stream->queue, len);
        if (stream->was_full && stream->queue.len <= OSB_HTTP_STREAM_HIGH / 2) {
            stream->was_full = false;
            stream->tell_drain = true;
            stream_notify(stream);
        }
        return (ssize_t)len;
    }
    if (stream->cut)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (stream->released)
        return MHD_CONTENT_READER_END_OF_STREAM;
    osb_http_request_suspend(stream->request);
    return 0;
}

/* libmicrohttpd has no more use for the response: it was sent, or the client is gone. */
static void stream_let_go(void *context)
{
    struct osb_http_stream *stream = context;
    osb_http_stream_detach(stream);
    stream->attached = false;
    stream_free_unused(stream);
}

void osb_http_stream_detach(struct osb_http_stream *stream)
{
    if (stream->request)
        stream->request->stream = NULL;
    stream->request = NULL;
    if (!stream->released)
        osb_http_stream_lost(stream);
}

struct osb_http_stream *osb_http_reply_stream(struct osb_http_request *request, unsigned int status, uint64_t size,
                                              const struct osb_http_stream_events *events)
{
    struct osb_http_stream *stream = calloc(1, sizeof *stream);
    struct MHD_Response *response = NULL;
    if (stream && !request->broken)
        response = MHD_create_response_from_callback(size, size == OSB_HTTP_CHUNKED ? CHUNKED_BLOCK : SIZED_BLOCK,
                                                     stream_read, stream, stream_let_go);
    if (!response) {
        free(stream);
        osb_http_reply_drop(request);
        return NULL;
    }
    *stream =
        (struct osb_http_stream){.server = request->server, .request = request, .attached = true, .events = *events};
    request->stream = stream;
    osb_http_request_answer(request, status, response);
    return stream;
}

struct osb_buf *osb_http_stream_buffer(struct osb_http_stream *stream)
{
    return &stream->queue;
}

bool osb_http_stream_is_full(const struct osb_http_stream *stream)
{
    return stream->was_full;
}

bool osb_http_stream_flush(struct osb_http_stream *stream)
{
    if (stream->gone) {
        osb_buf_clear(&stream->queue);
        return true;
    }
    if (stream->queue.len >= OSB_HTTP_STREAM_HIGH)
        stream->was_full = true;
    if (stream->queue.len > 0)
        osb_http_request_wake(stream->request);
    return !stream->was_full;
}

static void stream_release(struct osb_http_stream *stream)
{
    stream->released = true;
    if (stream->request)
        osb_http_request_wake(stream->request);
    stream_free_unused(stream);
}

void osb_http_stream_end(struct osb_http_stream *stream)
{
    stream_release(stream);
}

void osb_http_stream_cut(struct osb_http_stream *stream)
{
    stream->cut = true;
    osb_buf_clear(&stream->queue);
    stream_release(stream);
}
