/* The server of the benchmarks: enough of the lifecycle and execd APIs for an SDK to make a sandbox, run commands and
   move files, with all bytes prepared, so that it is never what limits a measurement. One blocking thread per
   connection.

   Prints its port on stdout, then serves 127.0.0.1 until its stdin ends. What it does for a request:
     …/command   {"command":"events N"}  N stdout events of 100 bytes each, then execution_complete
                 {"command":"true"}      execution_complete at once
                 {"command":"hold"}      the same, but the stream stays open for a second more, as with the real execd
                 {"command":"idle"}      an init event, and then nothing until the client goes
                 {"command":"rate N"}    N events per second, for RATE_SECONDS
     …/files/upload                      counts the body
     …/files/download?path=/bytes-N      N bytes
     all else                            what a healthy sandbox answers */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEAD_LIMIT 16384
#define BLOCK ((size_t)1 << 20)
#define EVENT_TEXT 100 /* bytes of output per event */
#define BATCH 400      /* events per HTTP chunk */
#define HOLD_MS 1000
#define RATE_SECONDS 2
#define RATE_HZ 1000 /* bursts per second */

static int port;
static int idle_streams;  /* an epoll descriptor */
static char block[BLOCK]; /* what downloads consist of */
static char event[256];
static size_t event_len;
static char batch[BATCH * 256 + 32]; /* one HTTP chunk of BATCH events */
static size_t batch_len;

static const char init_event[] = "{\"type\":\"init\",\"text\":\"bench\",\"timestamp\":1781500000000}\n\n";
static const char last_event[] =
    "{\"type\":\"execution_complete\",\"execution_time\":1,\"timestamp\":1781500000001}\n\n";
static const char stream_head[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/* A connection; `in` holds what was received and not yet used. */
struct connection {
    int fd;
    size_t len;
    char in[HEAD_LIMIT + 1];
};

struct request {
    char line[1024];  /* method and target */
    long long length; /* of the body; -1: chunked */
    bool expects_continue;
};

static bool send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return false;
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

/* ---- requests ---- */

static bool fill(struct connection *connection)
{
    if (connection->len == HEAD_LIMIT)
        return false;
    ssize_t got = recv(connection->fd, connection->in + connection->len, HEAD_LIMIT - connection->len, 0);
    if (got <= 0)
        return false;
    connection->len += (size_t)got;
    connection->in[connection->len] = '\0';
    return true;
}

static void use_up(struct connection *connection, size_t count)
{
    connection->len -= count;
    memmove(connection->in, connection->in + count, connection->len + 1);
}

static bool read_head(struct connection *connection, struct request *request)
{
    char *end;
    while (!(end = strstr(connection->in, "\r\n\r\n")))
        if (!fill(connection))
            return false;
    *end = '\0';
    snprintf(request->line, sizeof request->line, "%.*s", (int)strcspn(connection->in, "\r"), connection->in);
    const char *length = strcasestr(connection->in, "\r\nContent-Length:");
    request->length = length ? atoll(length + strlen("\r\nContent-Length:")) : 0;
    if (strcasestr(connection->in, "\r\nTransfer-Encoding: chunked"))
        request->length = -1;
    request->expects_continue = strcasestr(connection->in, "\r\nExpect:") != NULL;
    use_up(connection, (size_t)(end - connection->in) + 4);
    return true;
}

/* Passes over `count` bytes of the body. */
static bool discard(struct connection *connection, long long count)
{
    size_t held = count < (long long)connection->len ? (size_t)count : connection->len;
    use_up(connection, held);
    count -= (long long)held;
    static _Thread_local char sink[256 << 10];
    while (count > 0) {
        ssize_t got = recv(connection->fd, sink, count < (long long)sizeof sink ? (size_t)count : sizeof sink, 0);
        if (got <= 0)
            return false;
        count -= got;
    }
    return true;
}

static bool discard_body(struct connection *connection, const struct request *request)
{
    if (request->expects_continue && !send_all(connection->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25))
        return false;
    if (request->length >= 0)
        return discard(connection, request->length);
    for (;;) {
        char *end;
        while (!(end = strstr(connection->in, "\r\n")))
            if (!fill(connection))
                return false;
        long long size = strtoll(connection->in, NULL, 16);
        use_up(connection, (size_t)(end - connection->in) + 2);
        if (!discard(connection, size + 2)) /* the line end behind the chunk; there are no trailers */
            return false;
        if (size == 0)
            return true;
    }
}

/* ---- answers ---- */

static bool answer(int fd, const char *status, const char *json)
{
    char text[1024];
    int len =
        snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                 status, strlen(json), json);
    return send_all(fd, text, (size_t)len);
}

static bool send_bytes(int fd, long long count)
{
    char head[128];
    int len =
        snprintf(head, sizeof head,
                 "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %lld\r\n\r\n", count);
    if (!send_all(fd, head, (size_t)len))
        return false;
    for (; count > 0; count -= (long long)BLOCK)
        if (!send_all(fd, block, count < (long long)BLOCK ? (size_t)count : BLOCK))
            return false;
    return true;
}

static size_t put_chunk(char *to, size_t size, const char *bytes, size_t len)
{
    return (size_t)snprintf(to, size, "%zx\r\n%.*s\r\n", len, (int)len, bytes);
}

static size_t put_init(char *to, size_t size)
{
    size_t len = (size_t)snprintf(to, size, "%s", stream_head);
    return len + put_chunk(to + len, size - len, init_event, strlen(init_event));
}

/* A stream of `count` events. With `hold_ms` it stays open that long behind the last one, or until the client goes. */
static bool stream(int fd, long count, int hold_ms)
{
    char text[1024];
    size_t len = put_init(text, sizeof text);
    if (count > 0 && !send_all(fd, text, len))
        return false;
    if (count > 0)
        len = 0;
    for (; count >= BATCH; count -= BATCH)
        if (!send_all(fd, batch, batch_len))
            return false;
    for (; count > 0; count--) {
        len = put_chunk(text, sizeof text, event, event_len);
        if (!send_all(fd, text, len))
            return false;
        len = 0;
    }
    len += put_chunk(text + len, sizeof text - len, last_event, strlen(last_event));
    if (hold_ms > 0) {
        struct pollfd client = {.fd = fd, .events = POLLIN};
        if (!send_all(fd, text, len) || poll(&client, 1, hold_ms) != 0)
            return false; /* it has gone; it never sends before the end */
        len = 0;
    }
    len += put_chunk(text + len, sizeof text - len, "", 0);
    return send_all(fd, text, len);
}

/* Leaves the stream open behind its first event, without a thread of its own: close_idle waits for the client to go. */
static bool stay_idle(int fd)
{
    char text[512];
    int copy = dup(fd);
    struct epoll_event event_of_fd = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = copy};
    if (copy < 0 || epoll_ctl(idle_streams, EPOLL_CTL_ADD, copy, &event_of_fd) != 0)
        perror("bench_server");
    else
        send_all(copy, text, put_init(text, sizeof text));
    return false;
}

static void *close_idle(void *unused)
{
    struct epoll_event events[64];
    for (;;) {
        int count = epoll_wait(idle_streams, events, 64, -1);
        for (int i = 0; i < count; i++)
            close(events[i].data.fd);
    }
    return unused;
}

/* A stream of `rate` events per second in even bursts. */
static bool stream_at_rate(int fd, long rate)
{
    char text[1024];
    struct timespec next;
    long burst = rate / RATE_HZ < BATCH ? rate / RATE_HZ : BATCH;
    if (!send_all(fd, text, put_init(text, sizeof text)))
        return false;
    char *events = malloc((size_t)burst * 256 + 32);
    char *body = malloc((size_t)burst * 256);
    bool ok = events && body;
    size_t len = 0;
    for (long i = 0; ok && i < burst; i++, len += event_len)
        memcpy(body + len, event, event_len);
    if (ok)
        len = put_chunk(events, (size_t)burst * 256 + 32, body, len);
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (int i = 0; ok && i < RATE_SECONDS * RATE_HZ; i++) {
        ok = send_all(fd, events, len);
        next.tv_nsec += 1000000000L / RATE_HZ;
        next.tv_sec += next.tv_nsec / 1000000000L;
        next.tv_nsec %= 1000000000L;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    free(body);
    free(events);
    len = put_chunk(text, sizeof text, last_event, strlen(last_event));
    len += put_chunk(text + len, sizeof text - len, "", 0);
    return ok && send_all(fd, text, len);
}

static bool run_command(struct connection *connection, const struct request *request)
{
    if (request->length < 0 || request->length > HEAD_LIMIT)
        return false;
    while ((long long)connection->len < request->length)
        if (!fill(connection))
            return false;
    const char *events = strstr(connection->in, "\"events ");
    long count = events ? atol(events + strlen("\"events ")) : 0;
    const char *rate = strstr(connection->in, "\"rate ");
    long per_second = rate ? atol(rate + strlen("\"rate ")) : 0;
    bool is_idle = strstr(connection->in, "\"idle\"") != NULL;
    int hold_ms = strstr(connection->in, "\"hold\"") ? HOLD_MS : 0;
    use_up(connection, (size_t)request->length);
    if (is_idle)
        return stay_idle(connection->fd);
    if (per_second > 0)
        return stream_at_rate(connection->fd, per_second);
    return stream(connection->fd, count, hold_ms);
}

static bool serve_one(struct connection *connection)
{
    struct request request;
    int fd = connection->fd;
    if (!read_head(connection, &request))
        return false;
    const char *line = request.line;
    if (strstr(line, "/command "))
        return run_command(connection, &request);
    if (!discard_body(connection, &request))
        return false;
    const char *bytes = strstr(line, "bytes-");
    if (bytes)
        return send_bytes(fd, atoll(bytes + strlen("bytes-")));
    if (strncmp(line, "DELETE ", 7) == 0)
        return send_all(fd, "HTTP/1.1 204 No Content\r\n\r\n", 27);
    if (strstr(line, "/endpoints/")) {
        char json[128];
        snprintf(json, sizeof json, "{\"endpoint\":\"127.0.0.1:%d/bench/44772\"}", port);
        return answer(fd, "200 OK", json);
    }
    static const char sandbox[] = "{\"id\":\"bench\",\"status\":{\"state\":\"Running\"},\"entrypoint\":[\"true\"],"
                                  "\"createdAt\":\"2026-01-01T00:00:00Z\",\"expiresAt\":\"2027-01-01T00:00:00Z\"}";
    if (strncmp(line, "POST /v1/sandboxes ", 19) == 0)
        return answer(fd, "202 Accepted", sandbox);
    if (strncmp(line, "GET /v1/sandboxes?", 18) == 0 || strncmp(line, "GET /v1/sandboxes ", 18) == 0)
        return answer(fd, "200 OK",
                      "{\"items\":[],\"pagination\":{\"page\":1,\"pageSize\":20,\"totalItems\":0,\"totalPages\":0,"
                      "\"hasNextPage\":false}}");
    if (strstr(line, "/v1/sandboxes/"))
        return answer(fd, "200 OK", sandbox);
    return send_all(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38);
}

static void *serve(void *given)
{
    struct connection *connection = given;
    while (serve_one(connection))
        continue;
    close(connection->fd);
    free(connection);
    return NULL;
}

/* ---- the program ---- */

static void prepare(void)
{
    static char text[BATCH * 256];
    size_t len = 0;
    memset(block, 'x', sizeof block);
    event_len =
        (size_t)snprintf(event, sizeof event, "{\"type\":\"stdout\",\"text\":\"%.*s\",\"timestamp\":1781500000000}\n\n",
                         EVENT_TEXT, block);
    for (int i = 0; i < BATCH; i++) {
        memcpy(text + len, event, event_len);
        len += event_len;
    }
    batch_len = put_chunk(batch, sizeof batch, text, len);
}

static void *end_with_stdin(void *unused)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    exit(0);
    return unused;
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) != 0 || listen(fd, 4096) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        perror("bench_server");
        exit(1);
    }
    port = ntohs(address.sin_port);
    return fd;
}

int main(void)
{
    pthread_t thread;
    struct rlimit files;
    prepare();
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    idle_streams = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on_loopback();
    printf("%d\n", port);
    fflush(stdout);
    if (idle_streams < 0 || pthread_create(&thread, NULL, end_with_stdin, NULL) != 0 ||
        pthread_create(&thread, NULL, close_idle, NULL) != 0)
        return 1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        struct connection *connection = fd >= 0 ? calloc(1, sizeof *connection) : NULL;
        if (!connection)
            continue;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection->fd = fd;
        if (pthread_create(&thread, NULL, serve, connection) == 0) {
            pthread_detach(thread);
        } else {
            close(fd);
            free(connection);
        }
    }
}
