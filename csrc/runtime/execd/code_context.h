/* Code contexts, and the run under way in each. */
#ifndef OSB_CODE_CONTEXT_H
#define OSB_CODE_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "driver.h"
#include "execd.h"
#include "interpreter.h"

struct osb_code_context {
    struct osb_execd *execd;
    char id[33];
    const struct osb_driver *driver;
    char *cwd;                           /* NULL: that of execd */
    bool is_default;                     /* runs code for which only the language was given */
    struct osb_interpreter *interpreter; /* NULL: ended; the next run starts another */
    struct osb_code_context *next;

    /* the run */
    bool running;
    struct osb_http_stream *stream; /* NULL once the client is gone */
    struct osb_buf dropped;         /* takes events when there is no stream */
    struct osb_timer ping;
    int64_t started;    /* ms, monotonic */
    unsigned int count; /* of all runs */
    bool counted;       /* it was told */
    struct {
        char bytes[4];
        size_t len;
    } cut[2]; /* of stdout and stderr: begin of a character whose rest is to come */
};

/* Starts the context's interpreter unless it runs; false with a sentence in `error`. */
bool osb_code_start(struct osb_code_context *context, char error[OSB_CHILD_ERROR_SIZE]);

/* Runs the code and answers with its events; 500 when the interpreter can't be started, and busy when it runs already.
 */
void osb_code_run_in(struct osb_code_context *context, struct osb_http_request *request, const char *code, size_t len);

/* Kills the interpreter and ends a run under way with an error; `cut`: breaks its stream off. */
void osb_code_end(struct osb_code_context *context, bool cut);

#endif
