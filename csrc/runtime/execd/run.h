/* One process whose output goes to a client as a stream of events; what commands and sessions have in common. */
#ifndef OSB_RUN_H
#define OSB_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "child.h"
#include "common/buf.h"
#include "execd.h"

struct osb_run;

struct osb_run_options {
    struct osb_child_spec spec; /* its output and error are filled in */
    const char *id;             /* the text of the init event */
    int64_t timeout;            /* ms until the group is killed; 0: never */
    bool session; /* stderr goes into stdout, lines by the rules of sessions, and the group is killed when the client
                     goes */
    /* The process has ended and its output was sent; appends the last event to `out`. `elapsed` is in ms. */
    void (*ended)(void *context, int status, bool timed_out, int64_t elapsed, struct osb_buf *out);
    void *context;
};

/* Starts the process and answers the request with its events. Returns NULL when it could not be started: then the
 * request is not answered yet and `error` says why. The run frees itself after `ended`; `*pid` is the process and its
 * group. */
struct osb_run *osb_run_start(struct osb_execd *execd, struct osb_http_request *request,
                              const struct osb_run_options *options, pid_t *pid, char error[OSB_CHILD_ERROR_SIZE]);

/* Adds the headers of a stream of events to the answer. */
void osb_run_add_headers(struct osb_http_request *request);

/* Answers with a whole stream of events that is known already. */
void osb_run_reply_events(struct osb_http_request *request, const struct osb_buf *events);

/* Frees all runs; to be called before the server and the children are freed. */
void osb_run_stop_all(void);

#endif
