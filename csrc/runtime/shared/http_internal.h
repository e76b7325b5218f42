/* What the files of the HTTP server share among themselves; others include http_server.h. */
#ifndef OSB_HTTP_INTERNAL_H
#define OSB_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "runtime/shared/http_server.h"

#define OSB_HTTP_MAX_PARAMS 4

struct osb_http_pair {
    char *name;
    char *value;
};

struct osb_http_header {
    struct osb_http_header *next;
    char *name;
    char *value;
};

struct osb_http_request {
    struct osb_http_server *server;
    struct MHD_Connection *connection;
    struct osb_http_request *next, **link; /* in the server's list */

    char *target; /* as sent */
    char *id;     /* NULL when the server has no request ids */
    const char *method;
    const char *rest;                  /* in target: what "*" took, and the query */
    char *params[OSB_HTTP_MAX_PARAMS]; /* decoded */
    size_t param_count;
    struct osb_http_pair *query; /* decoded */
    size_t query_count;
    char client[64];

    const struct osb_http_route *route;
    bool begun;       /* its headers were seen */
    bool handled;     /* the handler was called */
    bool body_over;   /* the last piece of the body came */
    bool too_large;   /* the body is above the limit and dropped */
    bool suspended;   /* in libmicrohttpd */
    bool queued;      /* libmicrohttpd has the answer */
    bool broken;      /* drop the connection */
    uint64_t dropped; /* bytes of the body that nobody took */
    struct osb_buf body;
    osb_http_body_reader read;
    void *read_context;

    struct osb_watch *hang_up; /* tells when the client goes while the connection is suspended */
    osb_http_handler gone;
    void *gone_context;

    struct MHD_Response *response; /* the answer, once given */
    unsigned int status;
    struct osb_http_header *headers; /* for the answer */
    struct osb_http_stream *stream;
};

struct osb_http_server {
    struct osb_http_config config;
    struct MHD_Daemon *daemon;
    struct osb_watch *watch;
    struct osb_http_request *requests;
    struct osb_http_peer *peers;    /* of connections that libmicrohttpd was given and has not begun with */
    struct osb_http_stream *notify; /* streams whose owner is to be told something */
};

/* Splits the target into path segments and query and finds the route. False: the request was answered (400). */
bool osb_http_request_parse(struct osb_http_request *request, bool *other_method);
void osb_http_request_free(struct osb_http_request *request);

/* Suspends or resumes the connection; both may be called twice. */
void osb_http_request_suspend(struct osb_http_request *request);
void osb_http_request_wake(struct osb_http_request *request);

/* Makes `response` (taken; NULL drops the connection) the answer and wakes the connection to have it sent. */
void osb_http_request_answer(struct osb_http_request *request, unsigned int status, struct MHD_Response *response);

/* The client of a suspended stream is gone. */
void osb_http_stream_lost(struct osb_http_stream *stream);

/* The stream's request ends: nothing more can be sent. */
void osb_http_stream_detach(struct osb_http_stream *stream);

/* Calls the owners that wait in server->notify; true when there was one. */
bool osb_http_server_notify(struct osb_http_server *server);

#endif
