/* The lifecycle API. */
#ifndef OSB_API_H
#define OSB_API_H

#include "runtime/runtime/runtime.h"
#include "runtime/shared/http_server.h"

/* Serves the API for `runtime` on a listening socket, which is taken over. NULL when memory is out. */
struct osb_http_server *osb_api_serve(struct osb_runtime *runtime, int listen_fd);

/* The sandbox that the request's first path parameter names; else answers 404 and returns NULL. */
struct osb_sandbox *osb_api_sandbox(struct osb_http_request *request, const struct osb_runtime *runtime);

/* Reads a decimal number of one digit at least and nothing else; -1 when it is none or above `most`. */
long osb_api_number(const char *text, long most);

/* Compares secrets in a time that depends on the lengths alone. */
bool osb_api_same_secret(const char *own, const char *given);

/* A whole number of the query from 1 to `most`; `missing` when it is not given. Else answers 422 and returns -1. */
long osb_api_count(struct osb_http_request *request, const char *name, long most, long missing);

/* api_sandbox.c */
void osb_api_create(struct osb_http_request *request, void *context);
void osb_api_list(struct osb_http_request *request, void *context);
void osb_api_get(struct osb_http_request *request, void *context);
void osb_api_delete(struct osb_http_request *request, void *context);
void osb_api_patch_metadata(struct osb_http_request *request, void *context);
void osb_api_pause(struct osb_http_request *request, void *context);
void osb_api_resume(struct osb_http_request *request, void *context);
void osb_api_renew(struct osb_http_request *request, void *context);

/* The Sandbox of the API (the caller's); NULL when memory is out. */
json_t *osb_api_sandbox_json(const struct osb_sandbox *sandbox);

/* api_diagnostics.c */
void osb_api_diagnostic_logs(struct osb_http_request *request, void *context);
void osb_api_diagnostic_events(struct osb_http_request *request, void *context);
void osb_api_diagnostic_inspect(struct osb_http_request *request, void *context);
void osb_api_diagnostic_summary(struct osb_http_request *request, void *context);

/* api_snapshot.c */
void osb_api_create_snapshot(struct osb_http_request *request, void *context);
void osb_api_list_snapshots(struct osb_http_request *request, void *context);
void osb_api_get_snapshot(struct osb_http_request *request, void *context);
void osb_api_delete_snapshot(struct osb_http_request *request, void *context);

/* api_endpoint.c */
void osb_api_endpoint(struct osb_http_request *request, void *context);
void osb_api_proxy(struct osb_http_request *request, void *context);

/* api_egress.c: what the official egress sidecar serves on its port. */
#define OSB_EGRESS_API_PORT 18080
#define OSB_EGRESS_API_PATH "/sandboxes/:id/proxy/18080/*"
#define OSB_EGRESS_TOKEN_HEADER "OPENSANDBOX-EGRESS-AUTH"
void osb_api_egress(struct osb_http_request *request, void *context);

#endif
