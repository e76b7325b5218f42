/* What the files of the proxy share among themselves; others include egress.h. */
#ifndef OSB_EGRESS_INTERNAL_H
#define OSB_EGRESS_INTERNAL_H

#include "runtime/runtime/egress.h"
#include "runtime/shared/http_server.h"

#define OSB_EGRESS_IDLE 900000           /* ms that a connection may be silent */
#define OSB_EGRESS_CONNECT_TIMEOUT 10000 /* ms, for each address */

struct osb_tunnel;
struct osb_plain;

struct osb_egress_service {
    struct osb_evloop *loop;
    struct osb_http_proxy *proxy;
    struct osb_http_server *server; /* for all connections that do not begin with CONNECT */
    struct osb_resolver *resolver;
    const struct osb_range *exempt;
    size_t exempt_count;
    struct osb_plain *plains; /* requests that wait for an address */
};

struct osb_egress {
    struct osb_egress_service *service;
    struct osb_policy *policy;
    struct osb_resolver_share *share;
    int listen_fd;
    struct osb_watch *watch;
    struct osb_timer pause; /* until connections are accepted again */
    size_t connections;     /* that refer to it; the last one frees it once it is closed */
    bool closed;
    struct osb_tunnel *tunnels;
};

/* Where a request wants to go. */
struct osb_site {
    char host[256]; /* a name without a dot at its end, or an address without brackets */
    uint16_t port;
};

struct osb_refusal {
    unsigned int status;
    char text[384]; /* a sentence with a newline */
};

/* Reads it from a URL, which must name a port when `explicit_port`. False when it is none. */
bool osb_egress_read_site(const char *url, bool explicit_port, struct osb_site *site);

/* The policy and the rule for ports allow it. */
bool osb_egress_check_site(const struct osb_egress *egress, const struct osb_site *site, struct osb_refusal *refusal);

/* The same once more, then leaves those addresses of the site to which a connection may be made. False when none is
 * left. */
bool osb_egress_check_addresses(const struct osb_egress *egress, const struct osb_site *site,
                                struct osb_addresses *addresses, struct osb_refusal *refusal);

/* One of its connections is over. The proxy may be gone after. */
void osb_egress_release(struct osb_egress *egress);

/* egress_tunnel.c: takes an accepted connection; without memory it is closed. */
void osb_tunnel_start(struct osb_egress *egress, int fd);
void osb_tunnel_drop_all(struct osb_egress *egress);
void osb_tunnel_drop_forbidden(struct osb_egress *egress);

/* egress_plain.c: takes an accepted connection whose first bytes are not read yet, as above. */
void osb_plain_start(struct osb_egress *egress, int fd);
struct osb_http_server *osb_plain_serve(struct osb_egress_service *service);
void osb_plain_drop_all(const struct osb_egress *egress);

#endif
