/* The process of a code context: an interpreter under its driver, which runs one piece of code after another. */
#ifndef OSB_INTERPRETER_H
#define OSB_INTERPRETER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "child.h"
#include "driver.h"
#include "execd.h"

struct osb_interpreter;

struct osb_interpreter_events {
    /* A piece of its stdout (0) or stderr (1), while code runs. */
    void (*output)(void *context, int channel, const char *bytes, size_t len);
    /* What its driver tells of the code that runs, all output before it was handed out: {"result"}, {"error"},
     * {"done"}, or {"too_long"} for something of more than 12 MiB. */
    void (*message)(void *context, const json_t *message);
    /* It has ended, by itself or by a signal, and all that it told was handed out. It is gone then. */
    void (*ended)(void *context, int status);
    void *context;
};

/* Starts one; `cwd` NULL: that of execd. NULL with a sentence in `error`. */
struct osb_interpreter *osb_interpreter_start(struct osb_execd *execd, const struct osb_driver *driver, const char *cwd,
                                              const struct osb_interpreter_events *events,
                                              char error[OSB_CHILD_ERROR_SIZE]);

/* Has it run the code, which must not be called again before its message {"done"}. False when memory is out. */
bool osb_interpreter_run(struct osb_interpreter *interpreter, const char *code, size_t len);

/* Interrupts the code that runs. */
void osb_interpreter_interrupt(struct osb_interpreter *interpreter);

/* While paused no events come, and its output waits. Allowed within events. */
void osb_interpreter_pause(struct osb_interpreter *interpreter, bool paused);

/* Kills it and what it has started, and frees it; no more events come. Not allowed within events. */
void osb_interpreter_kill(struct osb_interpreter *interpreter);

#endif
