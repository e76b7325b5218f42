/* Connections to the proxy inside a sandbox that begin with CONNECT: a stream of bytes both ways. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "runtime/runtime/egress_internal.h"

#define BEGINNING "CONNECT "
#define PIECE ((size_t)32 << 10) /* bytes on the way in each direction */
#define HEAD_LIMIT ((size_t)16 << 10)
#define HEAD_PATIENCE 30000   /* ms until the request is there */
#define SEARCH_PATIENCE 60000 /* ms until the address is found */
#define ROUNDS 8              /* pieces in one turn of the loop */

/* One direction. */
struct flow {
    char bytes[PIECE];
    size_t start, end; /* of what was read and not written yet */
    bool ended;        /* nothing more comes */
    bool shut;         /* and that was passed on */
};

struct end {
    int fd;
    struct osb_watch *watch;
};

struct osb_tunnel {
    struct osb_egress *egress;
    struct osb_tunnel *next, **link;
    struct end client, remote;
    struct osb_timer timer;
    struct osb_lookup *lookup;
    struct osb_site site;
    struct osb_addresses addresses;
    size_t tried;
    union osb_address address; /* that it is connected to */
    bool open;                 /* bytes flow */
    struct flow up, down;
};

static void close_end(struct end *end)
{
    osb_watch_remove(end->watch);
    end->watch = NULL;
    if (end->fd >= 0)
        close(end->fd);
    end->fd = -1;
}

static void drop(struct osb_tunnel *tunnel)
{
    struct osb_egress *egress = tunnel->egress;
    osb_timer_stop(egress->service->loop, &tunnel->timer);
    osb_lookup_cancel(tunnel->lookup);
    close_end(&tunnel->client);
    close_end(&tunnel->remote);
    *tunnel->link = tunnel->next;
    if (tunnel->next)
        tunnel->next->link = tunnel->link;
    free(tunnel);
    osb_egress_release(egress);
}

static void on_timeout(void *context)
{
    drop(context);
}

static bool set_timer(struct osb_tunnel *tunnel, int64_t delay)
{
    return osb_timer_start(tunnel->egress->service->loop, &tunnel->timer, delay, on_timeout, tunnel);
}

/* Waits for events, or for none: a descriptor that hung up would not stop telling so. */
static bool watch_end(struct osb_tunnel *tunnel, struct end *end, uint32_t events, osb_watch_callback callback)
{
    if (events && end->watch)
        return osb_watch_modify(end->watch, events);
    osb_watch_remove(end->watch);
    end->watch = events ? osb_evloop_watch(tunnel->egress->service->loop, end->fd, events, callback, tunnel) : NULL;
    return !events || end->watch;
}

/* ---- the flow ---- */

/* Passes on what can be without waiting. False when the connection is broken. */
static bool flow_on(struct flow *flow, int from, int to)
{
    for (int round = 0; round < ROUNDS; round++) {
        while (flow->start < flow->end) {
            ssize_t sent = send(to, flow->bytes + flow->start, flow->end - flow->start, MSG_NOSIGNAL);
            if (sent < 0)
                return errno == EAGAIN || errno == EINTR;
            flow->start += (size_t)sent;
        }
        flow->start = flow->end = 0;
        if (flow->ended) {
            if (!flow->shut)
                (void)shutdown(to, SHUT_WR);
            flow->shut = true;
            return true;
        }
        ssize_t got = recv(from, flow->bytes, sizeof flow->bytes, 0);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        flow->ended = got == 0;
        flow->end = (size_t)got;
    }
    return true;
}

static uint32_t wanted(const struct flow *in, const struct flow *out)
{
    const bool reads = !in->ended && in->start == in->end;
    const bool writes = out->start < out->end;
    return (reads ? (uint32_t)EPOLLIN : 0) | (writes ? (uint32_t)EPOLLOUT : 0);
}

static void on_flow(void *context, uint32_t events)
{
    struct osb_tunnel *tunnel = context;
    struct flow *up = &tunnel->up;
    struct flow *down = &tunnel->down;
    const bool sound = !(events & EPOLLERR) && flow_on(up, tunnel->client.fd, tunnel->remote.fd) &&
                       flow_on(down, tunnel->remote.fd, tunnel->client.fd);
    if (!sound || (up->shut && down->shut) || !set_timer(tunnel, OSB_EGRESS_IDLE) ||
        !watch_end(tunnel, &tunnel->client, wanted(up, down), on_flow) ||
        !watch_end(tunnel, &tunnel->remote, wanted(down, up), on_flow))
        drop(tunnel);
}

/* ---- the answer ---- */

/* The client took its answer, or there is no more of it to send. */
static void send_answer(void *context, uint32_t events)
{
    struct osb_tunnel *tunnel = context;
    struct flow *down = &tunnel->down;
    const bool sound = !(events & EPOLLERR) && flow_on(down, -1, tunnel->client.fd);
    if (!sound || down->shut || !watch_end(tunnel, &tunnel->client, EPOLLOUT, send_answer))
        drop(tunnel);
}

/* Answers with an error, after which the connection ends. The tunnel may be gone after. */
static void refuse(struct osb_tunnel *tunnel, const struct osb_refusal *refusal)
{
    const char *phrase = refusal->status == 403 ? "Forbidden" : refusal->status == 502 ? "Bad Gateway" : "Bad Request";
    struct flow *down = &tunnel->down;
    close_end(&tunnel->remote);
    osb_watch_remove(tunnel->client.watch);
    tunnel->client.watch = NULL;
    down->end = (size_t)snprintf(down->bytes, sizeof down->bytes,
                                 "HTTP/1.1 %u %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
                                 "Connection: close\r\n\r\n%s",
                                 refusal->status, phrase, strlen(refusal->text), refusal->text);
    down->ended = true;
    if (set_timer(tunnel, HEAD_PATIENCE))
        send_answer(tunnel, 0);
    else
        drop(tunnel);
}

static void refuse_with(struct osb_tunnel *tunnel, unsigned int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void refuse_with(struct osb_tunnel *tunnel, unsigned int status, const char *format, ...)
{
    struct osb_refusal refusal = {.status = status};
    va_list values;
    va_start(values, format);
    (void)vsnprintf(refusal.text, sizeof refusal.text, format, values);
    va_end(values);
    refuse(tunnel, &refusal);
}

/* ---- connecting ---- */

static void connect_next(struct osb_tunnel *tunnel, int code);

static void on_connect_timeout(void *context)
{
    connect_next(context, ETIMEDOUT);
}

static void on_connected(void *context, uint32_t events)
{
    static const char established[] = "HTTP/1.1 200 Connection established\r\n\r\n";
    struct osb_tunnel *tunnel = context;
    int code = 0;
    socklen_t size = sizeof code;
    (void)events;
    if (getsockopt(tunnel->remote.fd, SOL_SOCKET, SO_ERROR, &code, &size) != 0 || code != 0) {
        connect_next(tunnel, code);
        return;
    }
    tunnel->open = true;
    osb_watch_remove(tunnel->remote.watch);
    tunnel->remote.watch = NULL;
    memcpy(tunnel->down.bytes, established, sizeof established - 1);
    tunnel->down.end = sizeof established - 1;
    on_flow(tunnel, 0);
}

/* Begins to connect to the address. False with errno. */
static bool connect_to(struct osb_tunnel *tunnel, const union osb_address *address)
{
    const int on = 1;
    tunnel->address = *address;
    tunnel->remote.fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return tunnel->remote.fd >= 0 && setsockopt(tunnel->remote.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
           (connect(tunnel->remote.fd, &address->any, osb_address_size(address)) == 0 || errno == EINPROGRESS) &&
           watch_end(tunnel, &tunnel->remote, EPOLLOUT, on_connected) &&
           osb_timer_start(tunnel->egress->service->loop, &tunnel->timer, OSB_EGRESS_CONNECT_TIMEOUT,
                           on_connect_timeout, tunnel);
}

/* Connects to the next address; `code` is why it was not the one before. The tunnel may be gone after. */
static void connect_next(struct osb_tunnel *tunnel, int code)
{
    close_end(&tunnel->remote);
    while (tunnel->tried < tunnel->addresses.count) {
        if (connect_to(tunnel, &tunnel->addresses.list[tunnel->tried++]))
            return;
        code = errno;
        close_end(&tunnel->remote);
    }
    refuse_with(tunnel, 502, "%s can't be reached: %s.\n", tunnel->site.host, strerror(code));
}

static void on_addresses(void *context, const struct osb_addresses *addresses)
{
    struct osb_tunnel *tunnel = context;
    struct osb_refusal refusal;
    tunnel->lookup = NULL;
    tunnel->addresses = *addresses;
    if (osb_egress_check_addresses(tunnel->egress, &tunnel->site, &tunnel->addresses, &refusal))
        connect_next(tunnel, 0);
    else
        refuse(tunnel, &refusal);
}

/* ---- the request ---- */

/* Reads "CONNECT host:port HTTP/1.x". */
static bool read_request(struct osb_tunnel *tunnel)
{
    char url[sizeof tunnel->site.host + 32];
    const char *authority = tunnel->up.bytes + strlen(BEGINNING);
    const size_t len = strcspn(authority, " \r\n/?#@\\");
    if (strncmp(authority + len, " HTTP/1.", 8) != 0 || len > sizeof url - sizeof "http://")
        return false;
    snprintf(url, sizeof url, "http://%.*s", (int)len, authority);
    return osb_egress_read_site(url, true, &tunnel->site);
}

/* The head of the request is complete and ends at `size`; what the client sent after it goes to the remote. */
static void begin(struct osb_tunnel *tunnel, size_t size)
{
    struct osb_refusal refusal;
    osb_watch_remove(tunnel->client.watch);
    tunnel->client.watch = NULL;
    tunnel->up.bytes[size - 1] = '\0';
    const bool valid = read_request(tunnel);
    tunnel->up.start = size;
    if (!valid) {
        refuse_with(tunnel, 400, "A request for a tunnel is CONNECT host:port.\n");
    } else if (!osb_egress_check_site(tunnel->egress, &tunnel->site, &refusal)) {
        refuse(tunnel, &refusal);
    } else {
        tunnel->lookup =
            osb_lookup_start(tunnel->egress->share, tunnel->site.host, tunnel->site.port, on_addresses, tunnel);
        if (!tunnel->lookup || !set_timer(tunnel, SEARCH_PATIENCE))
            drop(tunnel);
    }
}

static void read_head(void *context, uint32_t events)
{
    struct osb_tunnel *tunnel = context;
    struct flow *up = &tunnel->up;
    (void)events;
    ssize_t got = recv(tunnel->client.fd, up->bytes + up->end, HEAD_LIMIT - up->end, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        drop(tunnel);
        return;
    }
    up->end += (size_t)got;
    const char *over = memmem(up->bytes, up->end, "\r\n\r\n", 4);
    if (over)
        begin(tunnel, (size_t)(over - up->bytes) + 4);
    else if (up->end == HEAD_LIMIT)
        refuse_with(tunnel, 400, "The head of the request is too long.\n");
}

/* The first bytes are there: this is for us, or for the server of plain requests. */
static void on_arrival(void *context, uint32_t events)
{
    struct osb_tunnel *tunnel = context;
    char bytes[sizeof BEGINNING - 1];
    const int one = 1;
    ssize_t got = recv(tunnel->client.fd, bytes, sizeof bytes, MSG_PEEK);
    (void)setsockopt(tunnel->client.fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    osb_watch_remove(tunnel->client.watch);
    tunnel->client.watch = NULL;
    if (got == (ssize_t)sizeof bytes && memcmp(bytes, BEGINNING, sizeof bytes) == 0) {
        if (watch_end(tunnel, &tunnel->client, EPOLLIN, read_head))
            read_head(tunnel, events);
        else
            drop(tunnel);
        return;
    }
    if (got == (ssize_t)sizeof bytes) {
        osb_plain_start(tunnel->egress, tunnel->client.fd);
        tunnel->client.fd = -1;
    }
    drop(tunnel);
}

void osb_tunnel_start(struct osb_egress *egress, int fd)
{
    const int first = sizeof BEGINNING - 1;
    const int on = 1;
    struct osb_tunnel *tunnel = malloc(sizeof *tunnel);
    if (!tunnel) {
        close(fd);
        return;
    }
    egress->connections++;
    memset(tunnel, 0, offsetof(struct osb_tunnel, up)); /* the pieces' memory is taken when they are filled */
    tunnel->up.start = tunnel->up.end = tunnel->down.start = tunnel->down.end = 0;
    tunnel->up.ended = tunnel->up.shut = tunnel->down.ended = tunnel->down.shut = false;
    tunnel->egress = egress;
    tunnel->client.fd = fd;
    tunnel->remote.fd = -1;
    tunnel->next = egress->tunnels;
    tunnel->link = &egress->tunnels;
    if (tunnel->next)
        tunnel->next->link = &tunnel->next;
    egress->tunnels = tunnel;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &first, sizeof first); /* no method is seen before it is whole */
    if (!watch_end(tunnel, &tunnel->client, EPOLLIN, on_arrival) || !set_timer(tunnel, HEAD_PATIENCE))
        drop(tunnel);
}

void osb_tunnel_drop_all(struct osb_egress *egress)
{
    while (egress->tunnels)
        drop(egress->tunnels); /* NOLINT(clang-analyzer-unix.Malloc): it leaves the list */
}

void osb_tunnel_drop_forbidden(struct osb_egress *egress)
{
    struct osb_tunnel *next;
    for (struct osb_tunnel *tunnel = egress->tunnels; tunnel; tunnel = next) {
        struct osb_refusal refusal;
        struct osb_addresses own = {.list = {tunnel->address}, .count = 1};
        next = tunnel->next;
        if (tunnel->open && !osb_egress_check_addresses(egress, &tunnel->site, &own, &refusal))
            drop(tunnel);
    }
}
