/* The request of POST /sandboxes. */
#ifndef OSB_CREATE_H
#define OSB_CREATE_H

#include "runtime/runtime/runtime.h"
#include "runtime/runtime/sandbox.h"
#include "runtime/shared/http_server.h"

/* Reads the request's body `body` into `spec`, which borrows from it. When it can't be done, answers the request and
 * returns false. */
bool osb_create_read(const struct osb_runtime *runtime, struct osb_http_request *request, const json_t *body,
                     struct osb_sandbox_spec *spec);

/* 422 in the form of the official server's framework. `part`: "body", "path" or "query"; `field`: what is wrong there,
 * or NULL for all of it; `kind`: "missing", "int_type" … */
void osb_reply_unprocessable(struct osb_http_request *request, const char *part, const char *field, const char *kind,
                             const char *message);

#endif
