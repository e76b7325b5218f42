/*
 * Streaming reverse proxy: an incoming request is sent on with libcurl, its body and the answer's body are passed
 * through as they come, under back-pressure both ways. Hop-by-hop headers are dropped, redirects and encodings passed
 * through. HTTP only.
 */
#ifndef OSB_HTTP_PROXY_H
#define OSB_HTTP_PROXY_H

#include "runtime/shared/evloop.h"
#include "runtime/shared/http_server.h"

struct osb_http_proxy;

/* Where a request goes. All strings are copied. */
struct osb_http_proxy_target {
    const char *url;         /* http://host:port/path?query, encoded */
    const char *resolve;     /* libcurl CURLOPT_RESOLVE entry for the host ("localhost:80:127.0.0.1,[::1]"), or NULL */
    const char *const *drop; /* names of request headers not to pass on, NULL-terminated; NULL for none */
    const char *const *add;  /* "Name: value" request headers to send (instead of the client's of that name),
                                NULL-terminated; NULL for none */
    unsigned int connect_timeout; /* ms; 0: 10 s */
    unsigned int idle_timeout;    /* s without a byte in either direction; 0: no limit */
    bool own_connection;          /* shares no connection with another request */
    /* Answers the request when no answer came from the target (`reason` is a sentence part); NULL: 502 with the text
     * "Bad Gateway". */
    void (*failed)(struct osb_http_request *request, const char *reason, void *context);
    void *context;
};

/* One proxy serves any number of requests; NULL when memory is out. */
struct osb_http_proxy *osb_http_proxy_new(struct osb_evloop *loop);

/* Breaks off all exchanges and frees the proxy; to be called before osb_http_server_free. */
void osb_http_proxy_free(struct osb_http_proxy *proxy);

/* Sends the request on and answers it. To be called from the handler of a route with streams_body. */
void osb_http_proxy_forward(struct osb_http_proxy *proxy, struct osb_http_request *request,
                            const struct osb_http_proxy_target *target);

#endif
