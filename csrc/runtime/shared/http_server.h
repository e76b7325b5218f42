/*
 * HTTP server of the runtime's programs: libmicrohttpd driven by our event loop, in one thread.
 *
 * A route's handler is called once for every request and must answer it exactly once, at once or later, with one of the
 * osb_http_reply_* functions; a request without an answer waits (its connection is suspended). After the answer was
 * given the request must not be touched any more; a streamed answer goes on through its osb_http_stream.
 *
 * Everything must be called from the loop's thread, but for osb_http_request_query* and osb_http_request_body, which a
 * worker may use while the request is unanswered.
 */
#ifndef OSB_HTTP_SERVER_H
#define OSB_HTTP_SERVER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "runtime/shared/evloop.h"

struct osb_http_server;
struct osb_http_request;
struct osb_http_stream;

typedef void (*osb_http_handler)(struct osb_http_request *request, void *context);

/* The first member of what describes a connection that was accepted elsewhere. Private to the server. */
struct osb_http_peer {
    struct osb_http_peer *next;
    int fd;
};

struct osb_http_route {
    const char *method; /* "GET" …, or "*" for any method */
    /* "/command/:id/logs": a segment ":x" takes any one segment, a last segment "*" takes the rest (also none). First
     * match wins. "*" alone takes any target as it is, absolute URLs too, and the query stays unread. */
    const char *path;
    osb_http_handler handle;
    /* Call the handler as soon as the headers are in; it reads the body with osb_http_request_read. Else the handler is
     * called with the whole body in memory. */
    bool streams_body;
};

struct osb_http_config {
    struct osb_evloop *loop;
    int listen_fd; /* a listening socket; taken over. -1: connections come by osb_http_server_add alone */
    const struct osb_http_route *routes;
    size_t route_count;
    void *context; /* given to all handlers */
    /* Called first, for every request, known route or not. To refuse it answers the request and returns false. May be
     * NULL. */
    bool (*authorize)(struct osb_http_request *request, void *context);
    /* Answers requests that no route takes; `other_method` when a route has the path. NULL: 404 with a line of text. */
    void (*no_route)(struct osb_http_request *request, bool other_method, void *context);
    void (*peer_gone)(struct osb_http_peer *peer); /* a connection of osb_http_server_add is over, or NULL */
    bool request_ids;              /* every answer carries X-Request-ID: the one that came, or a new one */
    size_t body_limit;             /* bytes of a collected body; above it 413 INVALID_REQUEST_BODY. 0: 8 MiB */
    unsigned int connection_limit; /* 0: 4096 */
};

/* Starts serving. Takes config->listen_fd also on failure, which is NULL. */
struct osb_http_server *osb_http_server_new(const struct osb_http_config *config);

/* Drops all connections and frees the server. Whoever could still answer a request or write to a stream must have been
 * stopped. */
void osb_http_server_free(struct osb_http_server *server);

/* Serves a connection that was accepted elsewhere, which is taken over. `peer` must stay until config->peer_gone; false
 * when that will not be called. */
bool osb_http_server_add(struct osb_http_server *server, int fd, struct osb_http_peer *peer);

/* ---- the request ---- */

const char *osb_http_request_method(const struct osb_http_request *request);
/* The request target as sent, still encoded: path, and query with its '?'. */
const char *osb_http_request_target(const struct osb_http_request *request);
/* The index-th ":x" segment of the route, decoded; NULL when there is none. */
const char *osb_http_request_param(const struct osb_http_request *request, size_t index);
/* What the route's "*" took and the query, as sent ("/a%20b?x=1"); "" or starts with '/' or '?'. */
const char *osb_http_request_rest(const struct osb_http_request *request);
/* First value of a query parameter, decoded, or NULL. */
const char *osb_http_request_query(const struct osb_http_request *request, const char *name);
/* The index-th value of a repeated query parameter, decoded, or NULL. */
const char *osb_http_request_query_at(const struct osb_http_request *request, const char *name, size_t index);
/* A header by its case-insensitive name, or NULL. */
const char *osb_http_request_header(const struct osb_http_request *request, const char *name);
/* Calls `each` for all headers in order until it returns false. */
void osb_http_request_headers(const struct osb_http_request *request,
                              bool (*each)(void *context, const char *name, const char *value), void *context);
/* The id of the request when the server has request_ids, else NULL. */
const char *osb_http_request_id(const struct osb_http_request *request);
/* Numeric address of the client ("127.0.0.1"). */
const char *osb_http_request_client(const struct osb_http_request *request);
/* Whose connection it came by; NULL for those that the server accepted. */
struct osb_http_peer *osb_http_request_peer(const struct osb_http_request *request);
/* The collected body; never NULL, not terminated. */
const char *osb_http_request_body(const struct osb_http_request *request, size_t *len);
/* The collected body as JSON of any type (owned by the caller); trailing bytes are ignored, invalid UTF-8 becomes
 * U+FFFD. NULL with `error` filled when it isn't JSON; error->text is "EOF" when the body is empty. */
json_t *osb_http_request_json(const struct osb_http_request *request, json_error_t *error);
/* Calls `gone` once if the client goes away before the answer: the request is over then and must not be touched or
 * answered any more. Handlers of routes with streams_body must set it while they wait for the body. Without it the
 * answer stays due, and goes nowhere. NULL takes it back. */
void osb_http_request_on_gone(struct osb_http_request *request, osb_http_handler gone, void *context);

/* Hands the body of a streams_body route to `read` as it arrives, from the next turn of the loop on. It returns how
 * many bytes it took; fewer than `len`: it is called again after osb_http_request_resume. `len` 0 is the end of the
 * body, told once, and at once to a reader that comes after it. After the answer was given the rest is dropped. Not
 * reading the body at all drops it. */
typedef size_t (*osb_http_body_reader)(void *context, const char *bytes, size_t len);
void osb_http_request_read(struct osb_http_request *request, osb_http_body_reader read, void *context);
void osb_http_request_resume(struct osb_http_request *request);
/* Content-Length of the request, or -1 when it has none (chunked); 0 when there is no body. */
int64_t osb_http_request_body_size(const struct osb_http_request *request);
/* The connection as libmicrohttpd knows it, for MHD_create_post_processor and the like. */
struct MHD_Connection *osb_http_request_connection(const struct osb_http_request *request);

/* ---- answers ---- */

/* Adds a header to the answer to come. Content-Length and Transfer-Encoding are the server's own. */
void osb_http_reply_header(struct osb_http_request *request, const char *name, const char *value);
/* No body and Content-Length: 0. */
void osb_http_reply_empty(struct osb_http_request *request, unsigned int status);
/* Takes `body`; NULL (memory was out) drops the connection. */
void osb_http_reply_json(struct osb_http_request *request, unsigned int status, json_t *body);
/* The envelope {"code":…,"message":…}. */
void osb_http_reply_error(struct osb_http_request *request, unsigned int status, const char *code, const char *format,
                          ...) __attribute__((format(printf, 4, 5)));
/* Copies `len` bytes; `type` NULL leaves Content-Type out. */
void osb_http_reply_bytes(struct osb_http_request *request, unsigned int status, const char *type, const void *bytes,
                          size_t len);
/* Text of a terminated string, as text/plain. */
void osb_http_reply_text(struct osb_http_request *request, unsigned int status, const char *text);
/* `size` bytes of the file from `offset`; takes the descriptor. */
void osb_http_reply_file(struct osb_http_request *request, unsigned int status, int fd, uint64_t offset, uint64_t size);
/* Drops the connection without an answer. */
void osb_http_reply_drop(struct osb_http_request *request);

/* ---- streamed answers ---- */

#define OSB_HTTP_CHUNKED UINT64_MAX
#define OSB_HTTP_STREAM_HIGH ((size_t)1 << 20) /* bytes queued above which a stream is full */

struct osb_http_stream_events {
    void (*drain)(void *context); /* it was full and has room again; may be NULL */
    void (*gone)(
        void *context); /* the client is gone (told once); what is written from now on is dropped; may be NULL */
    void *context;
};

/* Answers with a body of `size` bytes (OSB_HTTP_CHUNKED: unknown) that is written later. The stream belongs to the
 * caller until osb_http_stream_end or _cut, also when the client is gone. NULL (connection dropped) when memory is out.
 */
struct osb_http_stream *osb_http_reply_stream(struct osb_http_request *request, unsigned int status, uint64_t size,
                                              const struct osb_http_stream_events *events);
/* The queue, to append to; then call osb_http_stream_flush. */
struct osb_buf *osb_http_stream_buffer(struct osb_http_stream *stream);
/* Sends what is in the queue. False when the stream is full: the writer should wait for drain. */
bool osb_http_stream_flush(struct osb_http_stream *stream);
bool osb_http_stream_is_full(const struct osb_http_stream *stream);
/* Ends the body once the queue is sent; the stream must not be used any more. */
void osb_http_stream_end(struct osb_http_stream *stream);
/* Breaks the connection off, so that the client sees a truncated body; the stream must not be used any more. */
void osb_http_stream_cut(struct osb_http_stream *stream);

#endif
