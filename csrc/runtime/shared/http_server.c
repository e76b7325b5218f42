#include "runtime/shared/http_internal.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/shared/text.h"

#define DEFAULT_BODY_LIMIT ((size_t)8 << 20)
#define DEFAULT_CONNECTION_LIMIT 4096
#define CONNECTION_MEMORY ((size_t)128 << 10) /* headers, and the pieces that bodies are read and written in */
#define IDLE_TIMEOUT 300u               /* s without a byte, for connections that wait for a request or its body */
#define DRAIN_LIMIT ((int64_t)1 << 20)  /* a larger body of a refused request is not waited for */
#define DROP_LIMIT ((uint64_t)64 << 20) /* bytes of a body that are read only to be dropped */

/* ---- suspending ---- */

static void client_hung_up(void *context, uint32_t events)
{
    struct osb_http_request *request = context;
    (void)events;
    osb_watch_remove(request->hang_up);
    request->hang_up = NULL;
    if (request->stream) {
        osb_http_stream_lost(request->stream);
    } else if (!request->suspended) {
        /* libmicrohttpd may have missed it (its edge came before the last bytes were read): have it look again */
        MHD_suspend_connection(request->connection);
        MHD_resume_connection(request->connection);
    } else if (!request->response && request->gone) {
        osb_http_handler gone = request->gone;
        request->gone = NULL;
        request->broken = true;
        gone(request, request->gone_context);
        osb_http_request_wake(request);
    }
}

/* Has client_hung_up called when the client goes. Edge-triggered: one event, however long it stays so. */
static void watch_client(struct osb_http_request *request)
{
    const union MHD_ConnectionInfo *info =
        request->hang_up ? NULL : MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info)
        request->hang_up = osb_evloop_watch(request->server->config.loop, info->connect_fd, EPOLLRDHUP | EPOLLET,
                                            client_hung_up, request);
}

void osb_http_request_suspend(struct osb_http_request *request)
{
    if (request->suspended)
        return;
    request->suspended = true;
    MHD_suspend_connection(request->connection);
    /* nobody else looks at a suspended connection */
    watch_client(request);
}

void osb_http_request_wake(struct osb_http_request *request)
{
    if (!request->suspended)
        return;
    request->suspended = false;
    MHD_resume_connection(request->connection);
}

/* ---- a request's way ---- */

static void *request_new(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct osb_http_server *server = context;
    struct osb_http_request *request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    request->server = server;
    request->connection = connection;
    request->rest = "";
    request->target = strdup(uri);
    if (!request->target) {
        free(request);
        return NULL;
    }
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr) {
        socklen_t size =
            info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        (void)getnameinfo(info->client_addr, size, request->client, sizeof request->client, NULL, 0, NI_NUMERICHOST);
    }
    request->next = server->requests;
    request->link = &server->requests;
    if (request->next)
        request->next->link = &request->next;
    server->requests = request;
    return request;
}

static void request_completed(void *context, struct MHD_Connection *connection, void **slot,
                              enum MHD_RequestTerminationCode code)
{
    (void)context;
    (void)code;
    struct osb_http_request *request = *slot;
    if (!request)
        return;
    *slot = NULL;
    if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_TIMEOUT);
    *request->link = request->next;
    if (request->next)
        request->next->link = request->link;
    if (!request->response && request->handled && request->gone)
        request->gone(request, request->gone_context);
    osb_http_request_free(request);
}

/* An id that came with the request when it is fit to be sent back, else a new one. */
static char *request_choose_id(const struct osb_http_request *request)
{
    const char *given = osb_http_request_header(request, "X-Request-ID");
    size_t len = given ? strlen(given) : 0;
    bool fit = len > 0 && len <= 256;
    for (size_t i = 0; fit && i < len; i++)
        fit = given[i] > 0x20 && given[i] < 0x7f;
    if (fit)
        return strdup(given);
    char fresh[33];
    osb_random_hex(fresh, 32);
    return strdup(fresh);
}

static void request_handle(struct osb_http_request *request)
{
    if (request->handled || request->response || request->broken)
        return;
    request->handled = true;
    request->route->handle(request, request->server->config.context);
}

/* The headers are in: find the route, check the access, start routes that stream the body. */
static void request_begin(struct osb_http_request *request, const char *method)
{
    const struct osb_http_config *config = &request->server->config;
    request->begun = true;
    request->method = method;
    if (config->request_ids && !(request->id = request_choose_id(request))) {
        request->broken = true;
        return;
    }
    bool other_method = false;
    bool sound = osb_http_request_parse(request, &other_method);
    if (config->authorize && !request->response && !config->authorize(request, config->context))
        return;
    if (!sound)
        return;
    if (!request->route) {
        if (config->no_route)
            config->no_route(request, other_method, config->context);
        else
            osb_http_reply_bytes(request, MHD_HTTP_NOT_FOUND, "text/plain", "404 page not found", 18);
    } else if (request->route->streams_body) {
        request_handle(request);
    } else if (osb_http_request_body_size(request) > (int64_t)config->body_limit) {
        request->too_large = true;
        osb_http_reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "INVALID_REQUEST_BODY", "request body is too large");
    }
}

/* Takes a piece of the body; returns how much of it. */
static size_t request_take_body(struct osb_http_request *request, const char *bytes, size_t len)
{
    bool streams = request->route && request->route->streams_body;
    if (!request->response && streams && request->read)
        return request->read(request->read_context, bytes, len);
    if (request->body.len + len > request->server->config.body_limit)
        request->too_large = true;
    if (request->response || streams || request->too_large) {
        osb_buf_free(&request->body);
        request->dropped += len;
        request->broken |= request->dropped > DROP_LIMIT;
    } else if (!osb_buf_append(&request->body, bytes, len)) {
        request->broken = true;
    }
    return len;
}

static void request_end_body(struct osb_http_request *request)
{
    request->body_over = true;
    if (request->response || request->broken)
        return;
    if (request->too_large)
        osb_http_reply_error(request, MHD_HTTP_CONTENT_TOO_LARGE, "INVALID_REQUEST_BODY", "request body is too large");
    else if (!request->route->streams_body)
        request_handle(request);
    else if (request->read)
        request->read(request->read_context, NULL, 0);
}

/* Gives the answer to libmicrohttpd. */
static enum MHD_Result request_queue(struct osb_http_request *request)
{
    request->queued = true;
    if (request->id)
        MHD_add_response_header(request->response, "X-Request-ID", request->id);
    for (struct osb_http_header *header = request->headers; header; header = header->next)
        MHD_add_response_header(request->response, header->name, header->value);
    if (request->stream)
        MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    enum MHD_Result result = MHD_queue_response(request->connection, request->status, request->response);
    MHD_destroy_response(request->response);
    return result;
}

static enum MHD_Result handle_access(void *context, struct MHD_Connection *connection, const char *url,
                                     const char *method, const char *version, const char *upload, size_t *upload_size,
                                     void **slot)
{
    (void)context;
    (void)connection;
    (void)url;
    (void)version;
    struct osb_http_request *request = *slot;
    if (!request)
        return MHD_NO;
    if (!request->begun) {
        request_begin(request, method);
        if (request->broken)
            return MHD_NO;
        /* A large body of a refused request is not waited for; a small one is, as the client may not read before it has
         * sent it. */
        int64_t size = osb_http_request_body_size(request);
        if (request->response && size > DRAIN_LIMIT)
            return request_queue(request);
        if (size != 0)
            watch_client(request);
        return MHD_YES;
    }
    if (*upload_size > 0) {
        size_t taken = request_take_body(request, upload, *upload_size);
        if (taken < *upload_size && !request->broken)
            osb_http_request_suspend(request);
        *upload_size -= taken;
        return request->broken ? MHD_NO : MHD_YES;
    }
    if (!request->body_over)
        request_end_body(request);
    if (request->broken)
        return MHD_NO;
    if (request->response)
        return request->queued ? MHD_YES : request_queue(request);
    osb_http_request_suspend(request);
    return MHD_YES;
}

void osb_http_request_answer(struct osb_http_request *request, unsigned int status, struct MHD_Response *response)
{
    if (request->response || request->broken) {
        if (response)
            MHD_destroy_response(response);
        return;
    }
    request->gone = NULL;
    request->status = status;
    request->response = response;
    if (!response)
        request->broken = true;
    osb_http_request_wake(request);
}

/* ---- the server ---- */

static size_t keep_encoded(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context;
    (void)connection;
    return strlen(text);
}

/* Lets libmicrohttpd work off what is ready; returns the time it may be left alone, in ms. */
static int64_t server_turn(void *context)
{
    struct osb_http_server *server = context;
    MHD_run(server->daemon);
    if (osb_http_server_notify(server))
        return 0;
    MHD_UNSIGNED_LONG_LONG timeout;
    if (MHD_get_timeout(server->daemon, &timeout) != MHD_YES)
        return -1;
    return timeout > INT64_MAX ? INT64_MAX : (int64_t)timeout;
}

static void server_ready(void *context, uint32_t events)
{
    (void)context;
    (void)events; /* server_turn runs before the next wait */
}

/* A connection begins, or is over. */
static void connection_changed(void *context, struct MHD_Connection *connection, void **slot,
                               enum MHD_ConnectionNotificationCode code)
{
    struct osb_http_server *server = context;
    struct osb_http_peer *peer = *slot;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        *slot = NULL;
        if (peer)
            server->config.peer_gone(peer);
        return;
    }
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (struct osb_http_peer **place = &server->peers; info && *place; place = &(*place)->next) {
        if ((*place)->fd == info->connect_fd) {
            *slot = *place;
            *place = (*place)->next;
            break;
        }
    }
}

bool osb_http_server_add(struct osb_http_server *server, int fd, struct osb_http_peer *peer)
{
    const struct sockaddr_in nobody = {.sin_family = AF_INET};
    peer->fd = fd;
    peer->next = server->peers;
    server->peers = peer;
    if (MHD_add_connection(server->daemon, fd, (const struct sockaddr *)&nobody, sizeof nobody) == MHD_YES)
        return true;
    if (server->peers != peer)
        return true;
    server->peers = peer->next; /* it never began */
    return false;
}

struct osb_http_server *osb_http_server_new(const struct osb_http_config *config)
{
    struct osb_http_server *server = calloc(1, sizeof *server);
    if (!server) {
        if (config->listen_fd >= 0)
            close(config->listen_fd);
        return NULL;
    }
    server->config = *config;
    if (server->config.body_limit == 0)
        server->config.body_limit = DEFAULT_BODY_LIMIT;
    if (server->config.connection_limit == 0)
        server->config.connection_limit = DEFAULT_CONNECTION_LIMIT;
    const bool listens = config->listen_fd >= 0;
    const struct MHD_OptionItem socket_options[] = {
        {listens ? MHD_OPTION_LISTEN_SOCKET : MHD_OPTION_END, config->listen_fd, NULL}, {MHD_OPTION_END, 0, NULL}};
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (listens ? 0 : MHD_USE_NO_LISTEN_SOCKET), 0, NULL, NULL,
        handle_access, server, MHD_OPTION_ARRAY, socket_options, MHD_OPTION_NOTIFY_CONNECTION, connection_changed,
        server, MHD_OPTION_URI_LOG_CALLBACK, request_new, server, MHD_OPTION_NOTIFY_COMPLETED, request_completed,
        server, MHD_OPTION_UNESCAPE_CALLBACK, keep_encoded, NULL, MHD_OPTION_CONNECTION_LIMIT,
        server->config.connection_limit, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)16 << 10,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!server->daemon) {
        if (listens)
            close(config->listen_fd);
        free(server);
        return NULL;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    server->watch = info ? osb_evloop_watch(config->loop, info->epoll_fd, EPOLLIN, server_ready, server) : NULL;
    if (!server->watch || !osb_evloop_add_hook(config->loop, server_turn, server)) {
        osb_watch_remove(server->watch);
        MHD_stop_daemon(server->daemon);
        free(server);
        return NULL;
    }
    return server;
}

void osb_http_server_free(struct osb_http_server *server)
{
    if (!server)
        return;
    osb_evloop_remove_hook(server->config.loop, server);
    osb_watch_remove(server->watch);
    for (struct osb_http_request *request = server->requests; request; request = request->next) {
        osb_watch_remove(request->hang_up);
        request->hang_up = NULL;
        request->gone = NULL;
        if (!request->response)
            request->broken = true;
        osb_http_request_wake(request);
    }
    MHD_stop_daemon(server->daemon);
    free(server);
}
