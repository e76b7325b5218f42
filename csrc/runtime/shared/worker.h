/* A few threads for work that blocks (files), so that the loop does not. */
#ifndef OSB_WORKER_H
#define OSB_WORKER_H

#include <stdbool.h>

#include "runtime/shared/evloop.h"

struct osb_worker_pool;

/* NULL when threads, descriptors or memory are out. */
struct osb_worker_pool *osb_worker_pool_new(struct osb_evloop *loop, unsigned int threads);

/* Waits for the work under way, calls `done` for it and for what has not begun (without `run`), and frees the pool. */
void osb_worker_pool_free(struct osb_worker_pool *pool);

/* Calls run(context) in a thread, then done(context) in the loop's thread. False when memory is out: nothing is called.
 */
bool osb_worker_submit(struct osb_worker_pool *pool, void (*run)(void *context), void (*done)(void *context),
                       void *context);

#endif
