/* File operations run in worker threads: a handler starts a job, `work` fills its outcome, the loop answers with it. */
#ifndef OSB_FILE_JOB_H
#define OSB_FILE_JOB_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "execd.h"

#define OSB_FILE_NOT_FOUND "FILE_NOT_FOUND"

struct osb_file_job {
    struct osb_http_request *request; /* its query may be read in the worker */
    json_t *input;                    /* the body; NULL when the operation has none */
    void *context;
    void (*work)(struct osb_file_job *job);

    unsigned int status; /* 200 unless set */
    const char *code;    /* of a failure; NULL: success */
    char *message;
    struct osb_buf text; /* JSON answer; empty: an answer without body */
    int fd;              /* when ≥ 0 the answer is this file's part; `headers` go with it */
    uint64_t offset, size;
    struct {
        const char *name;
        char *value;
    } headers[8];
    unsigned int header_count;
};

/* Runs `work` in a worker and answers. Takes `input`. */
void osb_file_job_start(struct osb_http_request *request, struct osb_execd *execd, json_t *input, void *context,
                        void (*work)(struct osb_file_job *job));

/* The same with the JSON body as input, which has to be of type `type`; else answers with 400. */
void osb_file_job_start_json(struct osb_http_request *request, struct osb_execd *execd, json_type type,
                             void (*work)(struct osb_file_job *job));

/* Sets the outcome to a failure; always false. */
bool osb_file_fail(struct osb_file_job *job, unsigned int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A failure by errno `error`: 404 when there is no such file, else 500. The format words what failed on. Always false.
 */
bool osb_file_fail_errno(struct osb_file_job *job, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds a header to the answer of a file. */
void osb_file_add_header(struct osb_file_job *job, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* `path` made absolute, or NULL with the outcome set to a failure. */
char *osb_file_resolve(struct osb_file_job *job, const char *path);

/* An errno as Go words it (lower case), valid until the thread's next call. */
const char *osb_file_reason(int error);

/* {"owner","group","mode"} of an object; false with the outcome set to a failure (400). */
struct osb_file_permission {
    const char *owner, *group;
    int64_t mode;
};
bool osb_file_read_permission(struct osb_file_job *job, const json_t *object, struct osb_file_permission *permission);

/* Applies it to the file; false with the outcome set to a failure, whose message begins with `what`. */
bool osb_file_set_permission(struct osb_file_job *job, const char *path, const struct osb_file_permission *permission,
                             const char *what);

#endif
