/*
 * The way out of sandboxes whose network mode is proxy: an HTTP proxy that listens inside, in the sandbox's network
 * namespace, and connects from the machine's, to public addresses only and as the sandbox's policy allows.
 */
#ifndef OSB_EGRESS_H
#define OSB_EGRESS_H

#include "runtime/runtime/address.h"
#include "runtime/runtime/policy.h"
#include "runtime/runtime/resolver.h"
#include "runtime/shared/evloop.h"
#include "runtime/shared/http_proxy.h"

#define OSB_EGRESS_PORT 3128 /* inside, on 127.0.0.1 */

struct osb_egress_service; /* what the proxies of all sandboxes share */
struct osb_egress;         /* the proxy of one sandbox */

/* `exempt` are ranges that count as public, for networks of tests. What is given must stay. NULL when memory or
 * descriptors are out. */
struct osb_egress_service *osb_egress_service_new(struct osb_evloop *loop, struct osb_http_proxy *proxy,
                                                  struct osb_resolver *resolver, const struct osb_range *exempt,
                                                  size_t exempt_count);

/* After all proxies were closed. */
void osb_egress_service_free(struct osb_egress_service *service);

/* Serves on a listening socket. Takes the socket and the policy, also on failure, which is NULL. */
struct osb_egress *osb_egress_new(struct osb_egress_service *service, int listen_fd, struct osb_policy *policy);

/* Breaks off all connections. NULL is ignored. */
void osb_egress_close(struct osb_egress *egress);

const struct osb_policy *osb_egress_policy(const struct osb_egress *egress);

/* Takes the policy. It holds for all requests to come; tunnels that it does not allow are broken off. */
void osb_egress_set_policy(struct osb_egress *egress, struct osb_policy *policy);

#endif
