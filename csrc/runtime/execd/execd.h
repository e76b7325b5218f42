/* The program's state and the handlers of its routes. */
#ifndef OSB_EXECD_H
#define OSB_EXECD_H

#include <stdbool.h>

#include "runtime/shared/evloop.h"
#include "runtime/shared/http_proxy.h"
#include "runtime/shared/http_server.h"
#include "runtime/shared/worker.h"

struct osb_child_table;
struct osb_record_table;
struct osb_session;
struct osb_code_context;

struct osb_execd {
    struct osb_evloop *loop;
    struct osb_http_server *server;
    struct osb_http_proxy *proxy;
    struct osb_worker_pool *workers;
    struct osb_child_table *children;
    struct osb_record_table *records;
    struct osb_session *sessions;
    size_t session_count;
    struct osb_code_context *code_contexts;
    struct osb_metrics_watch *metrics_watches;
    unsigned int port; /* the own one */
    char *token;       /* NULL: no access check */
};

/* error codes of the envelope */
#define OSB_INVALID_REQUEST "INVALID_REQUEST_BODY"
#define OSB_MISSING_QUERY "MISSING_QUERY"
#define OSB_RUNTIME_ERROR "RUNTIME_ERROR"
#define OSB_CONTEXT_NOT_FOUND "CONTEXT_NOT_FOUND"
#define OSB_NOT_SUPPORTED "NOT_SUPPORTED"

/* command.c */
void osb_command_run(struct osb_http_request *request, void *context);
/* The same for a command that came otherwise. */
void osb_command_run_text(struct osb_execd *execd, struct osb_http_request *request, const char *text);
void osb_command_interrupt(struct osb_http_request *request, void *context);
void osb_command_status(struct osb_http_request *request, void *context);
void osb_command_logs(struct osb_http_request *request, void *context);

/* code.c */
void osb_code_run(struct osb_http_request *request, void *context);
void osb_code_create(struct osb_http_request *request, void *context);
void osb_code_list(struct osb_http_request *request, void *context);
void osb_code_get(struct osb_http_request *request, void *context);
void osb_code_delete(struct osb_http_request *request, void *context);
void osb_code_delete_language(struct osb_http_request *request, void *context);
/* Interrupts what runs in the context; false when there is none of that id. */
bool osb_code_interrupt(struct osb_execd *execd, const char *id);
/* To be called before the server and the children are freed. */
void osb_code_delete_all(struct osb_execd *execd);

/* session.c */
void osb_session_create(struct osb_http_request *request, void *context);
void osb_session_run(struct osb_http_request *request, void *context);
void osb_session_delete(struct osb_http_request *request, void *context);
/* Ends the session and what runs in it; false when there is none of that id. */
bool osb_session_close(struct osb_execd *execd, const char *id);
void osb_session_close_all(struct osb_execd *execd);

/* file_*.c */
void osb_file_info(struct osb_http_request *request, void *context);
void osb_file_remove(struct osb_http_request *request, void *context);
void osb_file_permissions(struct osb_http_request *request, void *context);
void osb_file_move(struct osb_http_request *request, void *context);
void osb_file_search(struct osb_http_request *request, void *context);
void osb_file_replace(struct osb_http_request *request, void *context);
void osb_file_upload(struct osb_http_request *request, void *context);
void osb_file_download(struct osb_http_request *request, void *context);
void osb_directory_list(struct osb_http_request *request, void *context);
void osb_directory_make(struct osb_http_request *request, void *context);
void osb_directory_remove(struct osb_http_request *request, void *context);

/* metrics.c */
void osb_metrics_get(struct osb_http_request *request, void *context);
void osb_metrics_follow(struct osb_http_request *request, void *context);
void osb_metrics_stop_all(struct osb_execd *execd);

/* port.c */
void osb_port_forward(struct osb_http_request *request, void *context);

#endif
