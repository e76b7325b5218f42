#include "runtime/runtime/resolver.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/shared/worker.h"

#define THREADS 16
#define MOST_RUNNING 4 /* lookups of one share */

struct osb_resolver {
    struct osb_worker_pool *workers;
};

struct osb_resolver_share {
    struct osb_resolver *resolver;
    unsigned int running;
    struct osb_lookup *waiting, **last;
    bool ended;
};

struct osb_lookup {
    struct osb_resolver_share *share;
    struct osb_lookup *next; /* while it waits */
    bool running;
    osb_resolved resolved; /* NULL: cancelled */
    void *context;
    struct osb_addresses addresses;
    char port[8];
    char host[];
};

struct osb_resolver *osb_resolver_new(struct osb_evloop *loop)
{
    struct osb_resolver *resolver = malloc(sizeof *resolver);
    if (!resolver)
        return NULL;
    resolver->workers = osb_worker_pool_new(loop, THREADS);
    if (!resolver->workers) {
        free(resolver);
        return NULL;
    }
    return resolver;
}

struct osb_resolver_share *osb_resolver_share_new(struct osb_resolver *resolver)
{
    struct osb_resolver_share *share = calloc(1, sizeof *share);
    if (!share)
        return NULL;
    share->resolver = resolver;
    share->last = &share->waiting;
    return share;
}

void osb_resolver_share_end(struct osb_resolver_share *share)
{
    if (!share)
        return;
    share->ended = true;
    if (share->running == 0)
        free(share);
}

/* In a thread. */
static void run_lookup(void *context)
{
    struct osb_lookup *lookup = context;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    if (getaddrinfo(lookup->host, lookup->port, &hints, &found) != 0)
        return;
    struct osb_addresses *addresses = &lookup->addresses;
    for (const struct addrinfo *item = found; item && addresses->count < OSB_MOST_ADDRESSES; item = item->ai_next) {
        if (item->ai_family == AF_INET || item->ai_family == AF_INET6)
            memcpy(&addresses->list[addresses->count++], item->ai_addr, item->ai_addrlen);
    }
    freeaddrinfo(found);
}

static void end_lookup(void *context);

/* Begins what waits, as far as the share has threads left; without memory it goes on waiting. */
static void start_waiting(struct osb_resolver_share *share)
{
    while (share->waiting && share->running < MOST_RUNNING) {
        struct osb_lookup *lookup = share->waiting;
        if (!osb_worker_submit(share->resolver->workers, run_lookup, end_lookup, lookup))
            return;
        share->waiting = lookup->next;
        if (!share->waiting)
            share->last = &share->waiting;
        lookup->running = true;
        share->running++;
    }
}

static void end_lookup(void *context)
{
    struct osb_lookup *lookup = context;
    struct osb_resolver_share *share = lookup->share;
    if (lookup->resolved)
        lookup->resolved(lookup->context, &lookup->addresses);
    free(lookup);
    share->running--;
    if (!share->ended)
        start_waiting(share);
    else if (share->running == 0)
        free(share);
}

struct osb_lookup *osb_lookup_start(struct osb_resolver_share *share, const char *host, uint16_t port,
                                    osb_resolved resolved, void *context)
{
    const size_t size = strlen(host) + 1;
    struct osb_lookup *lookup = calloc(1, sizeof *lookup + size);
    if (!lookup)
        return NULL;
    lookup->share = share;
    lookup->resolved = resolved;
    lookup->context = context;
    memcpy(lookup->host, host, size);
    snprintf(lookup->port, sizeof lookup->port, "%u", port);
    *share->last = lookup;
    share->last = &lookup->next;
    start_waiting(share);
    return lookup;
}

void osb_lookup_cancel(struct osb_lookup *lookup)
{
    if (!lookup)
        return;
    lookup->resolved = NULL;
    if (lookup->running)
        return;
    struct osb_lookup **place = &lookup->share->waiting;
    while (*place != lookup)
        place = &(*place)->next;
    *place = lookup->next;
    if (!*place)
        lookup->share->last = place;
    free(lookup);
}
