#include "runtime/runtime/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKLOG 512
#define TRIES 16

/* A listening socket on the address, or -1 with errno; *port becomes its port. */
static int listen_on(const struct sockaddr *address, socklen_t len, bool reuse, uint16_t *port)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } bound = {.v6 = {0}};
    socklen_t size = sizeof bound;
    const int on = 1;
    if ((reuse && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) || bind(fd, address, len) != 0 ||
        listen(fd, BACKLOG) != 0 || getsockname(fd, &bound.any, &size) != 0) {
        int code = errno;
        close(fd);
        errno = code;
        return -1;
    }
    *port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    return fd;
}

static int listen_v4(uint32_t host, uint16_t *port, bool reuse)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(host)};
    return listen_on((const struct sockaddr *)&address, sizeof address, reuse, port);
}

bool osb_network_listen(struct osb_listener *listener)
{
    uint32_t host = 0;
    uint16_t port = OSB_EXECD_PORT;
    listener->fd = -1;
    for (int tries = 0; tries < TRIES && listener->fd < 0; tries++) {
        uint32_t random;
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
            return false;
        /* 127.1.0.1 and above: others use the first addresses; .0 and .255 look like networks */
        host = 0x7f000000U | (1 + random % 254) << 16 | (random >> 8 & 0xff) << 8 | (1 + (random >> 16) % 254);
        port = OSB_EXECD_PORT;
        listener->fd = listen_v4(host, &port, false);
    }
    listener->own_address = listener->fd >= 0;
    if (listener->fd < 0) {
        host = INADDR_LOOPBACK;
        port = 0;
        listener->fd = listen_v4(host, &port, false);
    }
    snprintf(listener->address, sizeof listener->address, "%u.%u.%u.%u:%u", host >> 24, host >> 16 & 0xff,
             host >> 8 & 0xff, host & 0xff, port);
    return listener->fd >= 0;
}

int osb_network_listen_at(const char *address, uint16_t *port)
{
    const char *colon = strrchr(address, ':');
    char host[64];
    char *end = NULL;
    long number = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || colon[1] < '0' || colon[1] > '9' || *end || number > UINT16_MAX ||
        (size_t)(colon - address) >= sizeof host) {
        errno = EINVAL;
        return -1;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    *port = (uint16_t)number;
    if (strcmp(host, "[::1]") == 0) {
        const struct sockaddr_in6 v6 = {
            .sin6_family = AF_INET6, .sin6_port = htons(*port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        return listen_on((const struct sockaddr *)&v6, sizeof v6, true, port);
    }
    struct in_addr v4;
    if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &v4) == 1 &&
        ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET)
        return listen_v4(ntohl(v4.s_addr), port, true);
    errno = EINVAL;
    return -1;
}

/* ---- inside ---- */

union rights {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

static struct msghdr message(struct iovec *byte, union rights *rights)
{
    return (struct msghdr){
        .msg_iov = byte, .msg_iovlen = 1, .msg_control = rights, .msg_controllen = sizeof rights->bytes};
}

static bool send_fd(int link, int fd)
{
    char byte = 0;
    union rights rights = {.bytes = {0}};
    struct msghdr sent = message(&(struct iovec){&byte, 1}, &rights);
    struct cmsghdr *header = CMSG_FIRSTHDR(&sent);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(link, &sent, 0) == 1;
}

static int receive_fd(int link)
{
    char byte;
    int fd = -1;
    union rights rights;
    struct msghdr received = message(&(struct iovec){&byte, 1}, &rights);
    const struct cmsghdr *header = recvmsg(link, &received, MSG_CMSG_CLOEXEC) == 1 ? CMSG_FIRSTHDR(&received) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

/* In a process of its own, which stays out of the sandbox's pid namespace: nobody inside sees it. The address is taken
 * before the loopback device has it (IP_FREEBIND). */
static int listen_in(int pidfd, uint16_t port, int link)
{
    const int on = 1;
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (setns(pidfd, CLONE_NEWUSER | CLONE_NEWNET) != 0)
        return errno;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0 ||
        !send_fd(link, fd))
        return errno;
    return 0;
}

int osb_network_listen_inside(int pidfd, uint16_t port)
{
    int link[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) != 0)
        return -1;
    pid_t pid = fork();
    int code = errno;
    if (pid == 0)
        _exit(listen_in(pidfd, port, link[1]));
    close(link[1]);
    int fd = -1;
    if (pid > 0) {
        int status = 0;
        fd = receive_fd(link[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        code = WIFEXITED(status) && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : EIO;
    }
    close(link[0]);
    errno = code;
    return fd;
}
