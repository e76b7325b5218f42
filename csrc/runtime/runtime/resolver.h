/* Names to addresses, by getaddrinfo in threads of its own. */
#ifndef OSB_RESOLVER_H
#define OSB_RESOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/runtime/address.h"
#include "runtime/shared/evloop.h"

#define OSB_MOST_ADDRESSES 8

struct osb_resolver;
struct osb_resolver_share;
struct osb_lookup;

struct osb_addresses {
    union osb_address list[OSB_MOST_ADDRESSES]; /* with the port; the best first */
    size_t count;                               /* 0: the name has none */
};

typedef void (*osb_resolved)(void *context, const struct osb_addresses *addresses);

/* NULL when threads or memory are out. There is no function to free it: its threads may be waiting for a name server
 * that does not answer, which the end of the process does not. */
struct osb_resolver *osb_resolver_new(struct osb_evloop *loop);

/* The part of one user, who gets so many threads at most that the others go on; what is above waits its turn. NULL when
 * memory is out. Before the end all lookups must be over or cancelled. */
struct osb_resolver_share *osb_resolver_share_new(struct osb_resolver *resolver);
void osb_resolver_share_end(struct osb_resolver_share *share);

/* Looks up a name or a numeric address; `resolved` is called later, from the loop. NULL when memory is out. */
struct osb_lookup *osb_lookup_start(struct osb_resolver_share *share, const char *host, uint16_t port,
                                    osb_resolved resolved, void *context);

/* `resolved` will not be called. NULL is ignored. */
void osb_lookup_cancel(struct osb_lookup *lookup);

#endif
