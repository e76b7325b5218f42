/* Connections to the proxy inside a sandbox that begin with something else than CONNECT: requests for absolute URLs. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "runtime/runtime/egress_internal.h"

#define ADDRESS_TEXT 64

/* A connection, as the server of plain requests knows it. */
struct arrival {
    struct osb_http_peer peer;
    struct osb_egress *egress;
};

/* A request that waits for the address of its site. */
struct osb_plain {
    struct osb_plain *next, **link;
    struct osb_egress *egress;
    struct osb_http_request *request;
    struct osb_lookup *lookup;
    struct osb_site site;
};

static void free_plain(struct osb_plain *plain)
{
    osb_lookup_cancel(plain->lookup);
    *plain->link = plain->next;
    if (plain->next)
        plain->next->link = plain->link;
    free(plain);
}

static void refuse(struct osb_http_request *request, const struct osb_refusal *refusal)
{
    osb_http_reply_text(request, refusal->status, refusal->text);
}

/* Leaves the body where it is until it is known where it goes. */
static size_t hold_body(void *context, const char *bytes, size_t len)
{
    (void)context;
    (void)bytes;
    (void)len;
    return 0;
}

static void on_gone(struct osb_http_request *request, void *context)
{
    (void)request;
    free_plain(context);
}

/* The URL of the request with the address in the place of the name, so that nobody looks that up again; to be freed
 * with curl_free. *host becomes the header that tells the name. NULL when memory is out. */
static char *pin(const char *target, const union osb_address *address, char *host, size_t size)
{
    char text[ADDRESS_TEXT];
    char plain[ADDRESS_TEXT];
    CURLU *url = curl_url();
    char *name = NULL;
    char *port = NULL;
    char *pinned = NULL;
    const bool is_v6 = address->any.sa_family == AF_INET6;
    const void *bytes = is_v6 ? (const void *)&address->v6.sin6_addr : (const void *)&address->v4.sin_addr;
    if (inet_ntop(address->any.sa_family, bytes, plain, sizeof plain) && url &&
        curl_url_set(url, CURLUPART_URL, target, CURLU_PATH_AS_IS) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &name, 0) == CURLUE_OK) {
        (void)curl_url_get(url, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT);
        snprintf(host, size, "Host: %s%s%s", name, port ? ":" : "", port ? port : "");
        snprintf(text, sizeof text, is_v6 ? "[%s]" : "%s", plain);
        if (curl_url_set(url, CURLUPART_HOST, text, 0) == CURLUE_OK &&
            curl_url_set(url, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
            curl_url_set(url, CURLUPART_PASSWORD, NULL, 0) == CURLUE_OK &&
            curl_url_get(url, CURLUPART_URL, &pinned, 0) != CURLUE_OK)
            pinned = NULL;
    }
    curl_free(name);
    curl_free(port);
    curl_url_cleanup(url);
    return pinned;
}

static void on_failure(struct osb_http_request *request, const char *reason, void *context)
{
    struct osb_refusal refusal = {.status = 502};
    (void)context;
    snprintf(refusal.text, sizeof refusal.text, "The site can't be reached: %s.\n", reason);
    refuse(request, &refusal);
}

static void forward(struct osb_egress_service *service, struct osb_http_request *request,
                    const union osb_address *address)
{
    char host[sizeof "Host: " + sizeof((struct osb_site *)NULL)->host + sizeof "[]:65535"];
    char *url = pin(osb_http_request_target(request), address, host, sizeof host);
    if (url) {
        const char *const add[] = {host, NULL};
        const struct osb_http_proxy_target target = {.url = url,
                                                     .add = add,
                                                     .connect_timeout = OSB_EGRESS_CONNECT_TIMEOUT,
                                                     .idle_timeout = OSB_EGRESS_IDLE / 1000,
                                                     .own_connection = true,
                                                     .failed = on_failure};
        osb_http_request_resume(request);
        osb_http_proxy_forward(service->proxy, request, &target);
    } else {
        osb_http_reply_drop(request);
    }
    curl_free(url);
}

static void on_addresses(void *context, const struct osb_addresses *found)
{
    struct osb_plain *plain = context;
    struct osb_http_request *request = plain->request;
    struct osb_egress_service *service = plain->egress->service;
    struct osb_addresses addresses = *found;
    struct osb_refusal refusal;
    const bool allowed = osb_egress_check_addresses(plain->egress, &plain->site, &addresses, &refusal);
    plain->lookup = NULL;
    osb_http_request_on_gone(request, NULL, NULL);
    free_plain(plain);
    if (allowed)
        forward(service, request, &addresses.list[0]);
    else
        refuse(request, &refusal);
}

static void handle(struct osb_http_request *request, void *context)
{
    struct osb_egress_service *service = context;
    const struct arrival *arrival = (const struct arrival *)osb_http_request_peer(request);
    struct osb_egress *egress = arrival->egress;
    struct osb_site site;
    struct osb_refusal refusal = {.status = 400,
                                  .text = "This is a proxy, for requests of http:// URLs and tunnels.\n"};
    if (egress->closed) {
        osb_http_reply_drop(request);
        return;
    }
    if (strncasecmp(osb_http_request_target(request), "http://", strlen("http://")) != 0 ||
        !osb_egress_read_site(osb_http_request_target(request), false, &site) ||
        !osb_egress_check_site(egress, &site, &refusal)) {
        refuse(request, &refusal);
        return;
    }
    struct osb_plain *plain = calloc(1, sizeof *plain);
    if (!plain) {
        osb_http_reply_drop(request);
        return;
    }
    *plain = (struct osb_plain){
        .egress = egress, .request = request, .site = site, .next = service->plains, .link = &service->plains};
    if (plain->next)
        plain->next->link = &plain->next;
    service->plains = plain;
    plain->lookup = osb_lookup_start(egress->share, site.host, site.port, on_addresses, plain);
    if (!plain->lookup) {
        free_plain(plain);
        osb_http_reply_drop(request);
        return;
    }
    osb_http_request_on_gone(request, on_gone, plain);
    osb_http_request_read(request, hold_body, NULL);
}

void osb_plain_drop_all(const struct osb_egress *egress)
{
    struct osb_plain *next;
    for (struct osb_plain *plain = egress->service->plains; plain; plain = next) {
        next = plain->next;
        if (plain->egress != egress)
            continue;
        osb_http_request_on_gone(plain->request, NULL, NULL);
        osb_http_reply_drop(plain->request);
        free_plain(plain);
    }
}

static void connection_over(struct osb_http_peer *peer)
{
    struct arrival *arrival = (struct arrival *)peer;
    osb_egress_release(arrival->egress);
    free(arrival);
}

void osb_plain_start(struct osb_egress *egress, int fd)
{
    struct arrival *arrival = calloc(1, sizeof *arrival);
    if (!arrival) {
        close(fd);
        return;
    }
    arrival->egress = egress;
    egress->connections++;
    if (!osb_http_server_add(egress->service->server, fd, &arrival->peer))
        connection_over(&arrival->peer);
}

struct osb_http_server *osb_plain_serve(struct osb_egress_service *service)
{
    static const struct osb_http_route routes[] = {{"*", "*", handle, true}};
    const struct osb_http_config config = {
        .loop = service->loop,
        .listen_fd = -1,
        .routes = routes,
        .route_count = 1,
        .context = service,
        .peer_gone = connection_over,
        .connection_limit = 65536,
    };
    return osb_http_server_new(&config);
}
