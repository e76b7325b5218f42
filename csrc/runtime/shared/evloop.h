/* The event loop of the runtime's programs: one thread, epoll, timers. Nothing here is thread-safe. */
#ifndef OSB_EVLOOP_H
#define OSB_EVLOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct osb_evloop;
struct osb_watch;

/* Events are those of epoll: EPOLLIN, EPOLLOUT, EPOLLRDHUP … (EPOLLERR and EPOLLHUP always come). */
typedef void (*osb_watch_callback)(void *context, uint32_t events);
typedef void (*osb_timer_callback)(void *context);

/* A one-shot timer inside its owner's structure; zero-initialise it. It must be stopped before that memory goes. */
struct osb_timer {
    int64_t due; /* ms, monotonic */
    size_t slot; /* place in the heap + 1; 0 when not running */
    osb_timer_callback callback;
    void *context;
};

/* Called before every wait; returns the longest time to wait in ms, or -1 for no limit. */
typedef int64_t (*osb_evloop_hook)(void *context);

/* Milliseconds of the monotonic clock. */
int64_t osb_evloop_now(void);

/* Returns NULL when descriptors or memory are out. */
struct osb_evloop *osb_evloop_new(void);

/* Frees the loop and its watches; descriptors watched stay open, timers still running are forgotten. */
void osb_evloop_free(struct osb_evloop *loop);

/* Handles events until osb_evloop_stop. Signals that arrive in the wait only make it go round again. */
void osb_evloop_run(struct osb_evloop *loop);

/* Makes osb_evloop_run return after the events at hand. */
void osb_evloop_stop(struct osb_evloop *loop);

/* Registers a hook (at most 8). */
bool osb_evloop_add_hook(struct osb_evloop *loop, osb_evloop_hook hook, void *context);

/* Drops the hooks that were registered with this context. */
void osb_evloop_remove_hook(struct osb_evloop *loop, const void *context);

/* Watches a descriptor, level-triggered unless `events` has EPOLLET. NULL with errno on failure. Remove the watch
 * before closing the descriptor. */
struct osb_watch *osb_evloop_watch(struct osb_evloop *loop, int fd, uint32_t events, osb_watch_callback callback,
                                   void *context);

/* Replaces the events waited for; false with errno on failure. */
bool osb_watch_modify(struct osb_watch *watch, uint32_t events);

/* Ends the watch; its callback is not called again. Allowed within any callback; NULL is ignored. */
void osb_watch_remove(struct osb_watch *watch);

/* Starts the timer, or sets it anew; delays below 0 count as 0. False when memory is out (it is then not running). */
bool osb_timer_start(struct osb_evloop *loop, struct osb_timer *timer, int64_t delay_ms, osb_timer_callback callback,
                     void *context);

/* Stops the timer if it runs. */
void osb_timer_stop(struct osb_evloop *loop, struct osb_timer *timer);

static inline bool osb_timer_running(const struct osb_timer *timer)
{
    return timer->slot != 0;
}

#endif
