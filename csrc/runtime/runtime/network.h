/* The socket on which a sandbox's execd is reached, and those inside its network. */
#ifndef OSB_NETWORK_H
#define OSB_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

#define OSB_EXECD_PORT 44772
#define OSB_ADDRESS_SIZE 24

struct osb_listener {
    int fd;
    char address[OSB_ADDRESS_SIZE]; /* "127.x.y.z:port" */
    bool own_address; /* the port is OSB_EXECD_PORT: clients may use the address; else only our proxy does */
};

/* Listens on a random loopback address, port OSB_EXECD_PORT; where none of 16 is free, on any port of 127.0.0.1. The
 * descriptor is close-on-exec and the caller's. False with errno. */
bool osb_network_listen(struct osb_listener *listener);

/* Listens on ADDR:PORT, which must be a loopback address (127.x.y.z, [::1] or localhost); port 0 takes a free one,
 * which *port tells. A descriptor, or -1 with errno (EINVAL for anything that is no such address). */
int osb_network_listen_at(const char *address, uint16_t *port);

/* Listens on 127.0.0.1:PORT in the user's and network namespaces of another process, the first of a sandbox, where the
 * loopback device need not be up yet. Nobody inside has the socket; it is the caller's, close-on-exec and non-blocking.
 * -1 with errno. */
int osb_network_listen_inside(int pidfd, uint16_t port);

#endif
