#include "runtime/runtime/egress_internal.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MOST_CONNECTIONS 256 /* of one sandbox; further ones wait in the backlog */
#define ACCEPTS 32           /* in one turn of the loop */
#define PAUSE 100            /* ms without accepting, where descriptors are out */
#define FIRST_FREE_PORT 1024

/* ---- what is allowed ---- */

#define REFUSE(refusal, code, ...)                                                                                     \
    ((refusal)->status = (code), (void)snprintf((refusal)->text, sizeof(refusal)->text, __VA_ARGS__), false)

/* Only what names and addresses are made of, so that it can be looked up and told without care. */
static bool is_host(const char *text)
{
    size_t len = 0;
    while (isalnum((unsigned char)text[len]) || (text[len] && strchr("-_.:", text[len])))
        len++;
    return len > 0 && text[len] == '\0';
}

bool osb_egress_read_site(const char *text, bool explicit_port, struct osb_site *site)
{
    CURLU *url = curl_url();
    char *host = NULL;
    char *port = NULL;
    bool valid = url && curl_url_set(url, CURLUPART_URL, text, CURLU_PATH_AS_IS) == CURLUE_OK &&
                 curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                 curl_url_get(url, CURLUPART_PORT, &port, explicit_port ? 0 : CURLU_DEFAULT_PORT) == CURLUE_OK;
    if (valid) {
        const char *name = host + (host[0] == '[');
        size_t len = strcspn(name, "]");
        len -= len > 1 && name[len - 1] == '.'; /* the root, which policies leave out */
        valid = len < sizeof site->host;
        if (valid) {
            memcpy(site->host, name, len);
            site->host[len] = '\0';
            site->port = (uint16_t)strtoul(port, NULL, 10);
            valid = is_host(site->host) && site->port != 0;
        }
    }
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(url);
    return valid;
}

bool osb_egress_check_site(const struct osb_egress *egress, const struct osb_site *site, struct osb_refusal *refusal)
{
    if (site->port != 80 && site->port != 443 && site->port < FIRST_FREE_PORT)
        return REFUSE(refusal, 403, "Sandboxes may use the ports 80, 443 and those from %d on, not %u.\n",
                      FIRST_FREE_PORT, site->port);
    if (!osb_policy_allows_name(egress->policy, site->host))
        return REFUSE(refusal, 403, "The network policy of this sandbox does not allow %s.\n", site->host);
    return true;
}

/* Sandboxes may be connected to it, whatever their policies are. */
static bool is_open(const struct osb_egress_service *service, const union osb_address *address)
{
    for (size_t i = 0; i < service->exempt_count; i++) {
        if (osb_range_has(&service->exempt[i], address))
            return true;
    }
    return osb_address_is_public(address) && !osb_address_is_own(address);
}

bool osb_egress_check_addresses(const struct osb_egress *egress, const struct osb_site *site,
                                struct osb_addresses *addresses, struct osb_refusal *refusal)
{
    struct osb_range literal;
    const bool by_name = !osb_range_parse(site->host, &literal);
    const size_t count = addresses->count;
    size_t open = 0;
    if (!osb_egress_check_site(egress, site, refusal))
        return false;
    if (count == 0)
        return REFUSE(refusal, 502, "%s has no address.\n", site->host);
    addresses->count = 0;
    for (size_t i = 0; i < count; i++) {
        const union osb_address address = addresses->list[i];
        if (!is_open(egress->service, &address))
            continue;
        open++;
        if (osb_policy_allows_address(egress->policy, &address, by_name))
            addresses->list[addresses->count++] = address;
    }
    if (open == 0)
        return REFUSE(refusal, 403, "%s is not on the public internet, which is all that sandboxes may reach.\n",
                      site->host);
    if (addresses->count == 0)
        return REFUSE(refusal, 403, "The network policy of this sandbox does not allow %s%s.\n",
                      by_name ? "the address of " : "", site->host);
    return true;
}

/* ---- connections ---- */

static void free_egress(struct osb_egress *egress)
{
    osb_policy_free(egress->policy);
    free(egress);
}

static void listen_again(void *context)
{
    struct osb_egress *egress = context;
    (void)osb_watch_modify(egress->watch, EPOLLIN);
}

/* Accepts nothing for a while: there are enough connections, or nothing is left to make one of. */
static void pause_listening(struct osb_egress *egress)
{
    if (osb_timer_start(egress->service->loop, &egress->pause, PAUSE, listen_again, egress))
        (void)osb_watch_modify(egress->watch, 0);
}

static void accept_all(void *context, uint32_t events)
{
    struct osb_egress *egress = context;
    (void)events;
    for (int i = 0; i < ACCEPTS; i++) {
        if (egress->connections >= MOST_CONNECTIONS) {
            pause_listening(egress);
            return;
        }
        int fd = accept4(egress->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                pause_listening(egress);
            return;
        }
        osb_tunnel_start(egress, fd);
    }
}

void osb_egress_release(struct osb_egress *egress)
{
    egress->connections--;
    if (egress->closed && egress->connections == 0)
        free_egress(egress);
}

struct osb_egress *osb_egress_new(struct osb_egress_service *service, int listen_fd, struct osb_policy *policy)
{
    struct osb_egress *egress = policy ? calloc(1, sizeof *egress) : NULL;
    if (egress) {
        egress->service = service;
        egress->policy = policy;
        egress->listen_fd = listen_fd;
        egress->share = osb_resolver_share_new(service->resolver);
        egress->watch = osb_evloop_watch(service->loop, listen_fd, EPOLLIN, accept_all, egress);
        if (egress->share && egress->watch)
            return egress;
        osb_egress_close(egress);
        return NULL;
    }
    close(listen_fd);
    osb_policy_free(policy);
    return NULL;
}

void osb_egress_close(struct osb_egress *egress)
{
    if (!egress)
        return;
    egress->closed = true;
    egress->connections++; /* our own, so that it stays until we are done */
    osb_timer_stop(egress->service->loop, &egress->pause);
    osb_watch_remove(egress->watch);
    close(egress->listen_fd);
    osb_tunnel_drop_all(egress);
    osb_plain_drop_all(egress);
    osb_resolver_share_end(egress->share);
    osb_egress_release(egress);
}

const struct osb_policy *osb_egress_policy(const struct osb_egress *egress)
{
    return egress->policy;
}

void osb_egress_set_policy(struct osb_egress *egress, struct osb_policy *policy)
{
    osb_policy_free(egress->policy);
    egress->policy = policy;
    osb_tunnel_drop_forbidden(egress);
}

/* ---- the service ---- */

struct osb_egress_service *osb_egress_service_new(struct osb_evloop *loop, struct osb_http_proxy *proxy,
                                                  struct osb_resolver *resolver, const struct osb_range *exempt,
                                                  size_t exempt_count)
{
    struct osb_egress_service *service = calloc(1, sizeof *service);
    if (!service)
        return NULL;
    *service = (struct osb_egress_service){
        .loop = loop, .proxy = proxy, .resolver = resolver, .exempt = exempt, .exempt_count = exempt_count};
    service->server = osb_plain_serve(service);
    if (service->server)
        return service;
    free(service);
    return NULL;
}

void osb_egress_service_free(struct osb_egress_service *service)
{
    if (!service)
        return;
    osb_http_server_free(service->server);
    free(service);
}
