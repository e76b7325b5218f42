/* The loop of a Lua state: one epoll descriptor, one CURLM, one heap of deadlines, and the sources that can be waited
   for. Nothing here calls Lua, but the methods at the foot of loop.c. */
#ifndef OSB_LOOP_H
#define OSB_LOOP_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#include "compat.h"

struct osb_loop;

/* Something that gets ready: embedded as first member in a transfer, timer or process. */
struct osb_source {
    struct osb_loop *loop; /* NULL once the loop is gone or the source was removed */
    int64_t id;
    struct osb_source *previous, *next;
    struct osb_source *next_ready;
    double due;       /* when `on_due` is called; OSB_NEVER = not armed */
    size_t heap_slot; /* place in the heap + 1; 0 = not in it */
    int fd;           /* watched by osb_loop_watch, else -1 */
    bool queued;      /* in the queue of ready sources */
    bool awaited;     /* somebody found it not ready and waits */
    void (*on_due)(struct osb_source *source, double now);
    void (*on_fd)(struct osb_source *source);
    void (*on_loop_close)(struct osb_source *source); /* last call: must take it out of the loop */
};

#define OSB_NEVER 1e300

/* The loop of this Lua state, made at first use; pushes nothing. Raises in a forked child and when it can't be made. */
struct osb_loop *osb_loop_get(lua_State *L);

/* True in a process forked from the loop's owner: then nothing of it may be touched. */
bool osb_loop_is_foreign(const struct osb_loop *loop);

CURLM *osb_loop_multi(struct osb_loop *loop);

/* Adds to the number of transfers that are drained in the background, and returns it. */
int osb_loop_count_drains(struct osb_loop *loop, int change);

/* Adds a source (gives it its id, sets due = never, fd = -1). Callbacks must be set. */
void osb_loop_add(struct osb_loop *loop, struct osb_source *source);

/* Takes a source out of everything. Idempotent. */
void osb_loop_remove(struct osb_source *source);

/* Sets when on_due is called; OSB_NEVER disarms. False when memory is out. */
bool osb_loop_arm(struct osb_source *source, double due);

/* Watches fd for input (or its end); on_fd is called. False when epoll refuses. */
bool osb_loop_watch(struct osb_source *source, int fd);
void osb_loop_unwatch(struct osb_source *source);

/* Says that a source became ready; the next step reports it, if somebody waits for it. */
void osb_loop_ready(struct osb_source *source);

/* Called when libcurl stops to watch a socket of an easy handle; called by libcurl, so it must not call it. */
void osb_transfer_unwatched(CURL *easy);

/* Called for every easy handle that has ended. */
void osb_transfer_finished(CURL *easy, CURLcode code);

#endif
