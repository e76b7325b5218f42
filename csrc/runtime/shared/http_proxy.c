#include "runtime/shared/http_proxy.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#define UPLOAD_HIGH ((size_t)256 << 10) /* bytes of a request body held before the client is made to wait */
#define HEADER_LIMIT 256                /* headers of an answer that are passed on */
#define CONNECT_TIMEOUT 10000L

struct osb_http_proxy {
    struct osb_evloop *loop;
    CURLM *multi;
    struct osb_timer timer;
    struct exchange *exchanges;
};

struct socket_watch {
    struct osb_http_proxy *proxy;
    struct osb_watch *watch;
    curl_socket_t fd;
};

/* One request under way. */
struct exchange {
    struct osb_http_proxy *proxy;
    struct exchange *next, **link;
    CURL *easy;
    struct osb_http_request *request; /* until it is answered */
    struct osb_http_stream *stream;   /* from then on */
    struct curl_slist *headers;       /* to the target */
    struct curl_slist *resolve;
    void (*failed)(struct osb_http_request *request, const char *reason, void *context);
    void *context;
    char error[CURL_ERROR_SIZE];

    struct osb_buf upload; /* of the request body, not sent yet */
    bool upload_over;
    bool upload_waits; /* libcurl waits for more of it */
    bool client_waits; /* the client waits for room in it */

    struct curl_slist *answer; /* header lines of the answer under way */
    bool answer_known;         /* they are complete */
    unsigned int status;
    int64_t size;      /* Content-Length of the answer, -1 unknown */
    bool head;         /* the method is HEAD */
    bool answer_waits; /* libcurl waits for room in the stream */
    bool lost;         /* the client is gone */
};

static const char *const hop_by_hop[] = {"connection",
                                         "keep-alive",
                                         "proxy-connection",
                                         "proxy-authenticate",
                                         "proxy-authorization",
                                         "te",
                                         "trailer",
                                         "transfer-encoding",
                                         "upgrade",
                                         NULL};

/* True when `name` (of `len` bytes) is in the list. */
static bool name_listed(const char *const *list, const char *name, size_t len)
{
    for (; list && *list; list++) {
        if (strncasecmp(*list, name, len) == 0 && (*list)[len] == '\0')
            return true;
    }
    return false;
}

/* True when a comma-separated header value (Connection) names the header. */
static bool value_names(const char *value, const char *name, size_t len)
{
    while (value && *value) {
        value += strspn(value, " \t,");
        size_t token = strcspn(value, " \t,");
        if (token == len && strncasecmp(value, name, len) == 0)
            return true;
        value += token;
    }
    return false;
}

static bool slist_add(struct curl_slist **list, const char *line)
{
    struct curl_slist *grown = curl_slist_append(*list, line);
    if (!grown)
        return false;
    *list = grown;
    return true;
}

static void exchange_free(struct exchange *exchange)
{
    if (exchange->easy) {
        curl_multi_remove_handle(exchange->proxy->multi, exchange->easy);
        curl_easy_cleanup(exchange->easy);
    }
    *exchange->link = exchange->next;
    if (exchange->next)
        exchange->next->link = exchange->link;
    curl_slist_free_all(exchange->headers);
    curl_slist_free_all(exchange->resolve);
    curl_slist_free_all(exchange->answer);
    osb_buf_free(&exchange->upload);
    free(exchange);
}

/* ---- the answer ---- */

static void answer_drain(void *context)
{
    struct exchange *exchange = context;
    if (!exchange->answer_waits)
        return;
    exchange->answer_waits = false;
    curl_easy_pause(exchange->easy, exchange->upload_waits ? CURLPAUSE_SEND : CURLPAUSE_CONT);
}

static void answer_gone(void *context)
{
    struct exchange *exchange = context;
    osb_http_stream_end(exchange->stream);
    exchange_free(exchange);
}

static void request_gone(struct osb_http_request *request, void *context)
{
    (void)request;
    exchange_free(context);
}

/* The header block is complete: answers the client with it. */
static void answer_begin(struct exchange *exchange)
{
    const char *connection = NULL;
    for (struct curl_slist *line = exchange->answer; line; line = line->next) {
        if (strncasecmp(line->data, "connection:", 11) == 0)
            connection = line->data + 11;
    }
    for (struct curl_slist *line = exchange->answer; line; line = line->next) {
        char *colon = strchr(line->data, ':');
        size_t len = (size_t)(colon - line->data);
        if (name_listed(hop_by_hop, line->data, len) || value_names(connection, line->data, len) ||
            (len == 14 && strncasecmp(line->data, "content-length", len) == 0))
            continue;
        *colon = '\0';
        osb_http_reply_header(exchange->request, line->data, colon + 1 + strspn(colon + 1, " \t"));
    }
    struct osb_http_request *request = exchange->request;
    struct osb_http_stream_events events = {.drain = answer_drain, .gone = answer_gone, .context = exchange};
    bool bodiless = exchange->head || exchange->status == 204 || exchange->status == 304;
    uint64_t size = exchange->size >= 0 ? (uint64_t)exchange->size : bodiless ? 0 : OSB_HTTP_CHUNKED;
    osb_http_request_on_gone(request, NULL, NULL);
    exchange->request = NULL;
    exchange->stream = osb_http_reply_stream(request, exchange->status, size, &events);
    exchange->lost = exchange->stream == NULL;
}

/* ---- the request's body ---- */

static size_t take_body(void *context, const char *bytes, size_t len)
{
    struct exchange *exchange = context;
    if (len == 0) {
        exchange->upload_over = true;
        if (exchange->answer_known && !exchange->stream) {
            answer_begin(exchange);
            answer_drain(exchange);
        }
    } else {
        if (exchange->upload.len >= UPLOAD_HIGH) {
            exchange->client_waits = true;
            return 0;
        }
        if (!osb_buf_append(&exchange->upload, bytes, len)) {
            exchange->lost = true;
            len = 0;
        }
    }
    if (exchange->upload_waits) {
        exchange->upload_waits = false;
        curl_easy_pause(exchange->easy, exchange->answer_waits ? CURLPAUSE_RECV : CURLPAUSE_CONT);
    }
    return len;
}

static size_t send_body(char *out, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    size_t room = size * count;
    size_t len = exchange->upload.len < room ? exchange->upload.len : room;
    if (exchange->lost)
        return CURL_READFUNC_ABORT;
    if (len == 0) {
        if (exchange->upload_over)
            return 0;
        exchange->upload_waits = true;
        return CURL_READFUNC_PAUSE;
    }
    memcpy(out, osb_buf_data(&exchange->upload), len);
    osb_buf_consume(&exchange->upload, len);
    if (exchange->client_waits && exchange->upload.len < UPLOAD_HIGH / 2) {
        exchange->client_waits = false;
        if (exchange->request)
            osb_http_request_resume(exchange->request);
    }
    return len;
}

static size_t take_header(char *bytes, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    size_t len = size * count, kept = len;
    while (kept > 0 && (bytes[kept - 1] == '\r' || bytes[kept - 1] == '\n'))
        kept--;
    if (exchange->stream || exchange->lost)
        return len; /* trailers */
    if (strncmp(bytes, "HTTP/", 5) == 0 && len > 5) {
        long status = 0;
        curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_slist_free_all(exchange->answer);
        exchange->answer = NULL;
        exchange->status = (unsigned int)status;
        exchange->size = -1;
        return len;
    }
    if (kept == 0) {
        /* The server can answer only when it has the whole request; after an error libcurl stops sending it. */
        exchange->answer_known = exchange->status >= 200;
        if (exchange->answer_known && (exchange->upload_over || exchange->status >= 400))
            answer_begin(exchange);
        return exchange->lost ? 0 : len;
    }
    char *line = strndup(bytes, kept);
    bool stored = false;
    if (line && strchr(line, ':')) {
        if (strncasecmp(line, "content-length:", 15) == 0)
            exchange->size = strtoll(line + 15, NULL, 10);
        stored = slist_add(&exchange->answer, line);
    }
    free(line);
    return stored ? len : 0;
}

static size_t take_answer(char *bytes, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    size_t len = size * count;
    if (exchange->lost)
        return 0;
    if (!exchange->stream || osb_http_stream_is_full(exchange->stream)) {
        exchange->answer_waits = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (!osb_buf_append(osb_http_stream_buffer(exchange->stream), bytes, len))
        return 0;
    osb_http_stream_flush(exchange->stream);
    return len;
}

static void exchange_finished(struct exchange *exchange, CURLcode code)
{
    if (code == CURLE_OK && exchange->request && exchange->answer_known)
        answer_begin(exchange);
    if (exchange->stream) {
        if (code == CURLE_OK)
            osb_http_stream_end(exchange->stream);
        else
            osb_http_stream_cut(exchange->stream);
    } else if (exchange->request) {
        struct osb_http_request *request = exchange->request;
        osb_http_request_on_gone(request, NULL, NULL);
        if (exchange->failed)
            exchange->failed(request, exchange->error[0] ? exchange->error : curl_easy_strerror(code),
                             exchange->context);
        else
            osb_http_reply_text(request, 502, "Bad Gateway\n");
    }
    exchange_free(exchange);
}

/* ---- libcurl and the loop ---- */

static void proxy_reap(struct osb_http_proxy *proxy)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(proxy->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        struct exchange *exchange = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&exchange);
        exchange_finished(exchange, code);
    }
}

static void proxy_act(struct osb_http_proxy *proxy, curl_socket_t fd, int action)
{
    int running;
    curl_multi_socket_action(proxy->multi, fd, action, &running);
    proxy_reap(proxy);
}

static void socket_ready(void *context, uint32_t events)
{
    const struct socket_watch *watch = context;
    int action = 0;
    if (events & EPOLLIN)
        action |= CURL_CSELECT_IN;
    if (events & EPOLLOUT)
        action |= CURL_CSELECT_OUT;
    if (events & (EPOLLERR | EPOLLHUP))
        action |= CURL_CSELECT_ERR;
    proxy_act(watch->proxy, watch->fd, action);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
    struct osb_http_proxy *proxy = context;
    struct socket_watch *watch = socket_context;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (watch) {
            osb_watch_remove(watch->watch);
            free(watch);
        }
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
    if (watch)
        return osb_watch_modify(watch->watch, events) ? 0 : -1;
    watch = calloc(1, sizeof *watch);
    if (!watch)
        return -1;
    watch->proxy = proxy;
    watch->fd = fd;
    watch->watch = osb_evloop_watch(proxy->loop, fd, events, socket_ready, watch);
    if (!watch->watch) {
        free(watch);
        return -1;
    }
    curl_multi_assign(proxy->multi, fd, watch);
    return 0;
}

static void timer_fired(void *context)
{
    proxy_act(context, CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long timeout, void *context)
{
    struct osb_http_proxy *proxy = context;
    (void)multi;
    if (timeout < 0) {
        osb_timer_stop(proxy->loop, &proxy->timer);
        return 0;
    }
    return osb_timer_start(proxy->loop, &proxy->timer, timeout, timer_fired, proxy) ? 0 : -1;
}

struct osb_http_proxy *osb_http_proxy_new(struct osb_evloop *loop)
{
    struct osb_http_proxy *proxy = calloc(1, sizeof *proxy);
    if (!proxy)
        return NULL;
    proxy->loop = loop;
    proxy->multi = curl_multi_init();
    if (!proxy->multi) {
        free(proxy);
        return NULL;
    }
    curl_multi_setopt(proxy->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(proxy->multi, CURLMOPT_SOCKETDATA, proxy);
    curl_multi_setopt(proxy->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(proxy->multi, CURLMOPT_TIMERDATA, proxy);
    curl_multi_setopt(proxy->multi, CURLMOPT_MAXCONNECTS, 64L);
    return proxy;
}

void osb_http_proxy_free(struct osb_http_proxy *proxy)
{
    if (!proxy)
        return;
    while (proxy->exchanges) {
        struct exchange *exchange = proxy->exchanges;
        if (exchange->stream) /* NOLINT(clang-analyzer-unix.Malloc): exchange_free takes it off the list */
            osb_http_stream_cut(exchange->stream);
        else if (exchange->request)
            osb_http_reply_drop(exchange->request);
        exchange_free(exchange);
    }
    curl_multi_cleanup(proxy->multi);
    osb_timer_stop(proxy->loop, &proxy->timer);
    free(proxy);
}

/* ---- starting ---- */

struct header_copy {
    struct exchange *exchange;
    const struct osb_http_proxy_target *target;
    const char *connection;
    bool failed;
};

static bool copy_header(void *context, const char *name, const char *value)
{
    struct header_copy *copy = context;
    size_t len = strlen(name);
    if (name_listed(hop_by_hop, name, len) || name_listed(copy->target->drop, name, len) ||
        value_names(copy->connection, name, len) || strcasecmp(name, "content-length") == 0 ||
        strcasecmp(name, "expect") == 0)
        return true;
    for (const char *const *add = copy->target->add; add && *add; add++) {
        if (strncasecmp(*add, name, len) == 0 && (*add)[len] == ':')
            return true;
    }
    char *line = NULL;
    /* "Name;" is libcurl's way to send a header without a value */
    int size = *value ? asprintf(&line, "%s: %s", name, value) : asprintf(&line, "%s;", name);
    copy->failed = size < 0 || !slist_add(&copy->exchange->headers, line);
    if (size >= 0)
        free(line);
    return !copy->failed;
}

static bool build_headers(struct exchange *exchange, const struct osb_http_proxy_target *target)
{
    struct header_copy copy = {exchange, target, osb_http_request_header(exchange->request, "Connection"), false};
    osb_http_request_headers(exchange->request, copy_header, &copy);
    if (copy.failed)
        return false;
    for (const char *const *add = target->add; add && *add; add++) {
        if (!slist_add(&exchange->headers, *add))
            return false;
    }
    /* keep libcurl from adding headers of its own */
    if (!slist_add(&exchange->headers, "Expect:") ||
        (!osb_http_request_header(exchange->request, "Accept") && !slist_add(&exchange->headers, "Accept:")))
        return false;
    const char *length = osb_http_request_header(exchange->request, "Content-Length");
    if (length && strcmp(length, "0") == 0 && !slist_add(&exchange->headers, "Content-Length: 0"))
        return false;
    return true;
}

static void set_options(struct exchange *exchange, const struct osb_http_proxy_target *target)
{
    CURL *easy = exchange->easy;
    const char *method = osb_http_request_method(exchange->request);
    int64_t body = osb_http_request_body_size(exchange->request);
    curl_easy_setopt(easy, CURLOPT_URL, target->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 131072L);
    curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, 131072L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     target->connect_timeout ? (long)target->connect_timeout : CONNECT_TIMEOUT);
    if (target->idle_timeout) {
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)target->idle_timeout);
    }
    if (target->own_connection) {
        curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    }
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->error);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, exchange);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
    if (target->resolve)
        curl_easy_setopt(easy, CURLOPT_RESOLVE, exchange->resolve);
    if (body != 0) {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)body);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, send_body);
        curl_easy_setopt(easy, CURLOPT_READDATA, exchange);
    } else {
        exchange->upload_over = true;
    }
    exchange->head = strcmp(method, "HEAD") == 0;
    if (exchange->head)
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->headers);
}

void osb_http_proxy_forward(struct osb_http_proxy *proxy, struct osb_http_request *request,
                            const struct osb_http_proxy_target *target)
{
    struct exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange) {
        osb_http_reply_drop(request);
        return;
    }
    *exchange = (struct exchange){.proxy = proxy,
                                  .request = request,
                                  .size = -1,
                                  .failed = target->failed,
                                  .context = target->context,
                                  .next = proxy->exchanges,
                                  .link = &proxy->exchanges};
    if (exchange->next)
        exchange->next->link = &exchange->next;
    proxy->exchanges = exchange;
    exchange->easy = curl_easy_init();
    if (!exchange->easy || (target->resolve && !slist_add(&exchange->resolve, target->resolve)) ||
        !build_headers(exchange, target)) {
        exchange_free(exchange);
        osb_http_reply_drop(request);
        return;
    }
    set_options(exchange, target);
    osb_http_request_on_gone(request, request_gone, exchange);
    osb_http_request_read(request, take_body, exchange);
    if (curl_multi_add_handle(proxy->multi, exchange->easy) != CURLM_OK)
        exchange_finished(exchange, CURLE_FAILED_INIT);
}
