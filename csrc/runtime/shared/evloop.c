#include "runtime/shared/evloop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_HOOKS 8
#define MAX_EVENTS 64

struct osb_watch {
    struct osb_evloop *loop;
    int fd;
    bool removed;
    osb_watch_callback callback;
    void *context;
    struct osb_watch *next, **link; /* in the loop's list of live or removed watches */
};

struct osb_evloop {
    int epoll_fd;
    bool stopped;
    struct osb_watch *watches;
    struct osb_watch *removed; /* freed after the events at hand, which may still point to them */
    struct osb_timer **heap;
    size_t timers, heap_size;
    struct {
        osb_evloop_hook call;
        void *context;
    } hooks[MAX_HOOKS];
    size_t hook_count;
};

int64_t osb_evloop_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct osb_evloop *osb_evloop_new(void)
{
    struct osb_evloop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        free(loop);
        return NULL;
    }
    return loop;
}

static void watch_list_push(struct osb_watch **list, struct osb_watch *watch)
{
    watch->next = *list;
    watch->link = list;
    if (watch->next)
        watch->next->link = &watch->next;
    *list = watch;
}

static void watch_list_drop(struct osb_watch *watch)
{
    *watch->link = watch->next;
    if (watch->next)
        watch->next->link = watch->link;
}

static void watch_list_free(struct osb_watch **list)
{
    while (*list) {
        struct osb_watch *watch = *list;
        *list = watch->next;
        free(watch);
    }
}

void osb_evloop_free(struct osb_evloop *loop)
{
    if (!loop)
        return;
    watch_list_free(&loop->watches);
    watch_list_free(&loop->removed);
    close(loop->epoll_fd);
    free(loop->heap);
    free(loop);
}

bool osb_evloop_add_hook(struct osb_evloop *loop, osb_evloop_hook hook, void *context)
{
    if (loop->hook_count == MAX_HOOKS)
        return false;
    loop->hooks[loop->hook_count].call = hook;
    loop->hooks[loop->hook_count].context = context;
    loop->hook_count++;
    return true;
}

void osb_evloop_remove_hook(struct osb_evloop *loop, const void *context)
{
    size_t kept = 0;
    for (size_t i = 0; i < loop->hook_count; i++) {
        if (loop->hooks[i].context != context)
            loop->hooks[kept++] = loop->hooks[i];
    }
    loop->hook_count = kept;
}

struct osb_watch *osb_evloop_watch(struct osb_evloop *loop, int fd, uint32_t events, osb_watch_callback callback,
                                   void *context)
{
    struct osb_watch *watch = malloc(sizeof *watch);
    if (!watch)
        return NULL;
    *watch = (struct osb_watch){.loop = loop, .fd = fd, .callback = callback, .context = context};
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        free(watch);
        return NULL;
    }
    watch_list_push(&loop->watches, watch);
    return watch;
}

bool osb_watch_modify(struct osb_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) == 0;
}

void osb_watch_remove(struct osb_watch *watch)
{
    if (!watch || watch->removed)
        return;
    epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->removed = true;
    watch_list_drop(watch);
    watch_list_push(&watch->loop->removed, watch);
}

/* ---- timers: a binary heap by due time ---- */

static void heap_put(struct osb_evloop *loop, size_t index, struct osb_timer *timer)
{
    loop->heap[index] = timer;
    timer->slot = index + 1;
}

static void heap_up(struct osb_evloop *loop, size_t index, struct osb_timer *timer)
{
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (loop->heap[parent]->due <= timer->due)
            break;
        heap_put(loop, index, loop->heap[parent]);
        index = parent;
    }
    heap_put(loop, index, timer);
}

static void heap_down(struct osb_evloop *loop, size_t index, struct osb_timer *timer)
{
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= loop->timers)
            break;
        if (child + 1 < loop->timers && loop->heap[child + 1]->due < loop->heap[child]->due)
            child++;
        if (timer->due <= loop->heap[child]->due)
            break;
        heap_put(loop, index, loop->heap[child]);
        index = child;
    }
    heap_put(loop, index, timer);
}

void osb_timer_stop(struct osb_evloop *loop, struct osb_timer *timer)
{
    if (timer->slot == 0)
        return;
    size_t index = timer->slot - 1;
    timer->slot = 0;
    struct osb_timer *last = loop->heap[--loop->timers];
    if (last == timer)
        return;
    if (index > 0 && last->due < loop->heap[(index - 1) / 2]->due)
        heap_up(loop, index, last);
    else
        heap_down(loop, index, last);
}

bool osb_timer_start(struct osb_evloop *loop, struct osb_timer *timer, int64_t delay_ms, osb_timer_callback callback,
                     void *context)
{
    osb_timer_stop(loop, timer);
    if (loop->timers == loop->heap_size) {
        size_t size = loop->heap_size ? loop->heap_size * 2 : 64;
        struct osb_timer **heap = realloc(loop->heap, size * sizeof(struct osb_timer *));
        if (!heap)
            return false;
        loop->heap = heap;
        loop->heap_size = size;
    }
    if (delay_ms < 0)
        delay_ms = 0;
    int64_t now = osb_evloop_now();
    timer->due = delay_ms > INT64_MAX - now ? INT64_MAX : now + delay_ms;
    timer->callback = callback;
    timer->context = context;
    heap_up(loop, loop->timers++, timer);
    return true;
}

/* Fires what is due now; a timer started by a callback with no delay fires in the next round. */
static void loop_fire_timers(struct osb_evloop *loop)
{
    int64_t now = osb_evloop_now();
    size_t budget = loop->timers;
    while (budget-- > 0 && loop->timers > 0 && loop->heap[0]->due <= now) {
        struct osb_timer *timer = loop->heap[0];
        osb_timer_stop(loop, timer);
        timer->callback(timer->context);
    }
}

/* Calls the hooks and gives the time to wait: ms, -1 without limit. */
static int loop_prepare(struct osb_evloop *loop)
{
    int64_t wait = -1;
    for (size_t i = 0; i < loop->hook_count; i++) {
        int64_t limit = loop->hooks[i].call(loop->hooks[i].context);
        if (limit >= 0 && (wait < 0 || limit < wait))
            wait = limit;
    }
    if (loop->timers > 0) {
        int64_t limit = loop->heap[0]->due - osb_evloop_now();
        if (limit < 0)
            limit = 0;
        if (wait < 0 || limit < wait)
            wait = limit;
    }
    return wait > 3600000 ? 3600000 : (int)wait;
}

void osb_evloop_run(struct osb_evloop *loop)
{
    struct epoll_event events[MAX_EVENTS];
    loop->stopped = false;
    while (!loop->stopped) {
        int wait = loop_prepare(loop);
        if (loop->stopped)
            break;
        int count = epoll_wait(loop->epoll_fd, events, MAX_EVENTS, wait);
        if (count < 0 && errno != EINTR)
            abort();
        for (int i = 0; i < count; i++) {
            struct osb_watch *watch = events[i].data.ptr;
            if (!watch->removed)
                watch->callback(watch->context, events[i].events);
        }
        watch_list_free(&loop->removed);
        loop_fire_timers(loop);
    }
}

void osb_evloop_stop(struct osb_evloop *loop)
{
    loop->stopped = true;
}
