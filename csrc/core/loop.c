#include "loop.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core.h"

#define LOOP_NAME OSB_KIND_PREFIX "loop"
#define BATCH 64
#define MAX_ROUNDS 8 /* full batches taken in one step before it comes back */

/* what an epoll event is about, in the upper half of its data; the lower half is the descriptor */
enum watch { WATCH_CURL = 1, WATCH_SOURCE, WATCH_WAKE, WATCH_TIMER };

struct osb_loop {
    CURLM *multi;
    pid_t owner;
    int epoll_fd, wake_fd, timer_fd;
    double curl_due;
    double timer_set; /* what timer_fd is armed for; used once a host watches our descriptor */
    bool is_watched;
    bool interrupted;
    int64_t last_id;
    int drains;
    struct osb_source *sources;
    struct osb_source *ready_first, *ready_last;
    struct osb_source **heap;
    size_t heap_len, heap_cap;
};

struct loop_handle {
    struct osb_loop *loop;
};

bool osb_loop_is_foreign(const struct osb_loop *loop)
{
    return loop->owner != getpid();
}

CURLM *osb_loop_multi(struct osb_loop *loop)
{
    return loop->multi;
}

int osb_loop_count_drains(struct osb_loop *loop, int change)
{
    loop->drains += change;
    return loop->drains;
}

/* ---- deadlines: a binary heap, earliest first ---- */

static void heap_place(struct osb_loop *loop, size_t index, struct osb_source *source)
{
    loop->heap[index] = source;
    source->heap_slot = index + 1;
}

static void heap_up(struct osb_loop *loop, size_t index)
{
    struct osb_source *source = loop->heap[index];
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (loop->heap[parent]->due <= source->due)
            break;
        heap_place(loop, index, loop->heap[parent]);
        index = parent;
    }
    heap_place(loop, index, source);
}

static void heap_down(struct osb_loop *loop, size_t index)
{
    struct osb_source *source = loop->heap[index];
    for (;;) {
        size_t child = index * 2 + 1;
        if (child >= loop->heap_len)
            break;
        if (child + 1 < loop->heap_len && loop->heap[child + 1]->due < loop->heap[child]->due)
            child++;
        if (source->due <= loop->heap[child]->due)
            break;
        heap_place(loop, index, loop->heap[child]);
        index = child;
    }
    heap_place(loop, index, source);
}

static void heap_remove(struct osb_loop *loop, struct osb_source *source)
{
    if (source->heap_slot == 0)
        return;
    size_t index = source->heap_slot - 1;
    source->heap_slot = 0;
    struct osb_source *last = loop->heap[--loop->heap_len];
    if (last == source)
        return;
    heap_place(loop, index, last);
    heap_up(loop, index);
    heap_down(loop, last->heap_slot - 1);
}

bool osb_loop_arm(struct osb_source *source, double due)
{
    struct osb_loop *loop = source->loop;
    if (!loop || source->due == due)
        return true;
    if (due >= OSB_NEVER) {
        source->due = OSB_NEVER;
        heap_remove(loop, source);
        return true;
    }
    if (source->heap_slot == 0) {
        if (loop->heap_len == loop->heap_cap) {
            size_t cap = loop->heap_cap ? loop->heap_cap * 2 : 32;
            struct osb_source **heap = realloc(loop->heap, cap * sizeof(struct osb_source *));
            if (!heap)
                return false;
            loop->heap = heap;
            loop->heap_cap = cap;
        }
        heap_place(loop, loop->heap_len++, source);
    }
    source->due = due;
    heap_up(loop, source->heap_slot - 1);
    heap_down(loop, source->heap_slot - 1);
    return true;
}

/* ---- sources ---- */

void osb_loop_add(struct osb_loop *loop, struct osb_source *source)
{
    source->loop = loop;
    source->id = ++loop->last_id;
    source->due = OSB_NEVER;
    source->fd = -1;
    source->previous = NULL;
    source->next = loop->sources;
    if (loop->sources)
        loop->sources->previous = source;
    loop->sources = source;
}

static void unqueue(struct osb_loop *loop, struct osb_source *source)
{
    if (!source->queued)
        return;
    struct osb_source **link = &loop->ready_first, *previous = NULL;
    while (*link != source) {
        previous = *link;
        link = &previous->next_ready;
    }
    *link = source->next_ready;
    if (loop->ready_last == source)
        loop->ready_last = previous;
    source->queued = false;
}

void osb_loop_remove(struct osb_source *source)
{
    struct osb_loop *loop = source->loop;
    if (!loop)
        return;
    if (source->fd >= 0)
        osb_loop_unwatch(source);
    heap_remove(loop, source);
    unqueue(loop, source);
    if (source->previous)
        source->previous->next = source->next;
    else
        loop->sources = source->next;
    if (source->next)
        source->next->previous = source->previous;
    source->loop = NULL;
}

void osb_loop_ready(struct osb_source *source)
{
    struct osb_loop *loop = source->loop;
    if (!loop || source->queued || !source->awaited)
        return;
    source->queued = true;
    source->next_ready = NULL;
    if (loop->ready_last)
        loop->ready_last->next_ready = source;
    else
        loop->ready_first = source;
    loop->ready_last = source;
}

static bool watch(struct osb_loop *loop, int operation, int fd, uint32_t events, enum watch kind)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)kind << 32 | (uint32_t)fd};
    return epoll_ctl(loop->epoll_fd, operation, fd, &event) == 0;
}

bool osb_loop_watch(struct osb_source *source, int fd)
{
    if (!source->loop || !watch(source->loop, EPOLL_CTL_ADD, fd, EPOLLIN, WATCH_SOURCE))
        return false;
    source->fd = fd;
    return true;
}

void osb_loop_unwatch(struct osb_source *source)
{
    if (source->loop && source->fd >= 0 && !osb_loop_is_foreign(source->loop))
        epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    source->fd = -1;
}

/* ---- libcurl's two callbacks ---- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known)
{
    struct osb_loop *loop = user;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        osb_transfer_unwatched(easy);
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
    int first = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (!watch(loop, first, fd, events, WATCH_CURL)) {
        if (errno != EEXIST && errno != ENOENT)
            return -1;
        if (!watch(loop, first == EPOLL_CTL_MOD ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, events, WATCH_CURL))
            return -1;
    }
    curl_multi_assign(loop->multi, fd, loop);
    return 0;
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *user)
{
    (void)multi;
    struct osb_loop *loop = user;
    loop->curl_due = timeout_ms < 0 ? OSB_NEVER : osb_core_now() + (double)timeout_ms / 1000;
    return 0;
}

/* ---- stepping ---- */

static double next_due(const struct osb_loop *loop)
{
    double due = loop->curl_due;
    if (loop->heap_len > 0 && loop->heap[0]->due < due)
        due = loop->heap[0]->due;
    return due;
}

/* Keeps timer_fd at the next due time, for a host that only watches our descriptor. */
static void arm_timer_fd(struct osb_loop *loop)
{
    double due = loop->ready_first ? 1e-9 : next_due(loop);
    if (!loop->is_watched || due == loop->timer_set)
        return;
    loop->timer_set = due;
    struct itimerspec spec = {.it_value = {0, 0}};
    if (due < OSB_NEVER) {
        double whole = floor(due);
        spec.it_value.tv_sec = (time_t)whole;
        spec.it_value.tv_nsec = (long)((due - whole) * 1e9);
        if (spec.it_value.tv_sec == 0 && spec.it_value.tv_nsec == 0)
            spec.it_value.tv_nsec = 1;
    }
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static struct osb_source *find_watched(const struct osb_loop *loop, int fd)
{
    struct osb_source *source = loop->sources;
    while (source && source->fd != fd)
        source = source->next;
    return source;
}

static void drain_counter(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
        continue;
}

static void dispatch(struct osb_loop *loop, const struct epoll_event *event)
{
    int fd = (int)(uint32_t)event->data.u64;
    int running = 0;
    switch ((enum watch)(event->data.u64 >> 32)) {
    case WATCH_CURL: {
        int mask = (event->events & EPOLLIN ? CURL_CSELECT_IN : 0) | (event->events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (event->events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(loop->multi, fd, mask, &running);
        break;
    }
    case WATCH_SOURCE: {
        struct osb_source *source = find_watched(loop, fd);
        if (source)
            source->on_fd(source);
        break;
    }
    case WATCH_WAKE:
        drain_counter(loop->wake_fd);
        break;
    case WATCH_TIMER:
        drain_counter(loop->timer_fd);
        loop->timer_set = OSB_NEVER;
        break;
    }
}

static void collect_finished(struct osb_loop *loop)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(loop->multi, &left)))
        if (message->msg == CURLMSG_DONE)
            osb_transfer_finished(message->easy_handle, message->data.result);
}

static void expire(struct osb_loop *loop)
{
    double now = osb_core_now();
    if (loop->curl_due <= now) {
        int running;
        loop->curl_due = OSB_NEVER;
        curl_multi_socket_action(loop->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    /* on_due re-arms later than now or disarms, so this ends */
    while (loop->heap_len > 0 && loop->heap[0]->due <= now) {
        struct osb_source *source = loop->heap[0];
        osb_loop_arm(source, OSB_NEVER);
        source->on_due(source, now);
    }
}

/* Waits up to `timeout` seconds for something to happen and lets it happen. */
static void step(struct osb_loop *loop, double timeout)
{
    struct epoll_event events[BATCH];
    double due = next_due(loop);
    if (loop->ready_first)
        timeout = 0;
    else if (due < OSB_NEVER && due - osb_core_now() < timeout)
        timeout = due - osb_core_now();
    int wait_ms = timeout <= 0 ? 0 : timeout > 1e6 ? -1 : (int)ceil(timeout * 1000);
    loop->interrupted = false;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        int count = epoll_wait(loop->epoll_fd, events, BATCH, wait_ms);
        if (count < 0) {
            loop->interrupted = errno == EINTR;
            break;
        }
        for (int i = 0; i < count; i++)
            dispatch(loop, &events[i]);
        if (count < BATCH)
            break;
        wait_ms = 0;
    }
    expire(loop);
    collect_finished(loop);
}

/* ---- making and unmaking ---- */

static void close_descriptors(struct osb_loop *loop)
{
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    if (loop->timer_fd >= 0)
        close(loop->timer_fd);
}

static void loop_free(struct osb_loop *loop)
{
    if (osb_loop_is_foreign(loop))
        return; /* a forked child leaks it: undoing it here would undo it in the parent's epoll */
    while (loop->sources)
        loop->sources->on_loop_close(loop->sources);
    curl_multi_cleanup(loop->multi);
    close_descriptors(loop);
    free(loop->heap);
    free(loop);
}

static struct osb_loop *loop_new(void)
{
    struct osb_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->owner = getpid();
    loop->curl_due = OSB_NEVER;
    loop->timer_set = OSB_NEVER;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    loop->multi = curl_multi_init();
    if (loop->multi && loop->epoll_fd >= 0 && watch(loop, EPOLL_CTL_ADD, loop->wake_fd, EPOLLIN, WATCH_WAKE) &&
        watch(loop, EPOLL_CTL_ADD, loop->timer_fd, EPOLLIN, WATCH_TIMER)) {
        curl_multi_setopt(loop->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(loop->multi, CURLMOPT_SOCKETDATA, loop);
        curl_multi_setopt(loop->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
        curl_multi_setopt(loop->multi, CURLMOPT_TIMERDATA, loop);
        curl_multi_setopt(loop->multi, CURLMOPT_MAXCONNECTS, 256L);
        return loop;
    }
    curl_multi_cleanup(loop->multi);
    close_descriptors(loop);
    free(loop);
    return NULL;
}

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* Pushes the loop's userdata, made at first use. */
static struct osb_loop *push_loop(lua_State *L)
{
    osb_core_push_context(L);
    lua_getfield(L, -1, "loop");
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        pthread_once(&curl_once, init_curl);
        struct loop_handle *handle = osb_compat_newuserdata(L, sizeof *handle);
        handle->loop = NULL;
        luaL_getmetatable(L, LOOP_NAME);
        lua_setmetatable(L, -2);
        handle->loop = loop_new();
        if (!handle->loop)
            luaL_error(L, "opensandbox: the loop can't be made: %s", strerror(errno));
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, "loop");
    }
    lua_remove(L, -2);
    struct loop_handle *handle = lua_touserdata(L, -1);
    if (!handle->loop)
        luaL_error(L, "opensandbox: the Lua state is closing");
    if (osb_loop_is_foreign(handle->loop))
        luaL_error(L, "opensandbox: this process was forked from the one that made the connections; "
                      "start a new Lua state to use opensandbox here");
    return handle->loop;
}

struct osb_loop *osb_loop_get(lua_State *L)
{
    struct osb_loop *loop = push_loop(L);
    lua_pop(L, 1);
    return loop;
}

/* ---- methods ---- */

static struct osb_loop *check_loop(lua_State *L)
{
    const struct loop_handle *handle = luaL_checkudata(L, 1, LOOP_NAME);
    if (!handle->loop || osb_loop_is_foreign(handle->loop))
        luaL_error(L, "opensandbox: this loop belongs to another process or is closed");
    return handle->loop;
}

/* core.loop() -> the loop of this state */
static int loop_of_state(lua_State *L)
{
    push_loop(L);
    return 1;
}

/* loop:step(seconds, ready) -> count, interrupted: writes the ids of sources that became ready into ready[1..count].
   seconds nil waits without end. Returns early when a signal arrives. */
static int loop_step(lua_State *L)
{
    struct osb_loop *loop = check_loop(L);
    double timeout = luaL_optnumber(L, 2, OSB_NEVER);
    luaL_checktype(L, 3, LUA_TTABLE);
    step(loop, timeout);
    int count = 0;
    while (loop->ready_first) {
        struct osb_source *source = loop->ready_first;
        loop->ready_first = source->next_ready;
        source->queued = false;
        source->awaited = false;
        lua_pushinteger(L, (lua_Integer)source->id);
        lua_rawseti(L, 3, ++count);
    }
    loop->ready_last = NULL;
    arm_timer_fd(loop);
    lua_pushinteger(L, count);
    lua_pushboolean(L, loop->interrupted);
    return 2;
}

/* loop:fd() -> a descriptor that becomes readable when `step` has something to do */
static int loop_fd(lua_State *L)
{
    struct osb_loop *loop = check_loop(L);
    loop->is_watched = true;
    arm_timer_fd(loop);
    lua_pushinteger(L, loop->epoll_fd);
    return 1;
}

/* loop:timeout() -> seconds until `step` wants to be called, nil = only when something comes. Whoever watches the
   descriptor need not look at it: from this call on, the descriptor gets readable then, too. */
static int loop_timeout(lua_State *L)
{
    struct osb_loop *loop = check_loop(L);
    arm_timer_fd(loop);
    double due = loop->ready_first ? 0 : next_due(loop);
    if (due >= OSB_NEVER)
        return 0;
    double left = due - osb_core_now();
    lua_pushnumber(L, left > 0 ? left : 0);
    return 1;
}

/* loop:wakeup() makes a waiting step return; safe in a signal handler's Lua hook */
static int loop_wakeup(lua_State *L)
{
    struct osb_loop *loop = check_loop(L);
    uint64_t one = 1;
    lua_pushboolean(L, write(loop->wake_fd, &one, sizeof one) == (ssize_t)sizeof one);
    return 1;
}

/* loop:nudge() makes the descriptor readable, for a host that watches it; nothing where nobody does */
static int loop_nudge(lua_State *L)
{
    const struct osb_loop *loop = check_loop(L);
    return loop->is_watched ? loop_wakeup(L) : 0;
}

/* loop:sources() -> how many transfers, timers and processes there are, for tests that count */
static int loop_sources(lua_State *L)
{
    lua_Integer count = 0;
    for (const struct osb_source *source = check_loop(L)->sources; source; source = source->next)
        count++;
    lua_pushinteger(L, count);
    return 1;
}

static int loop_gc(lua_State *L)
{
    struct loop_handle *handle = luaL_checkudata(L, 1, LOOP_NAME);
    if (handle->loop)
        loop_free(handle->loop);
    handle->loop = NULL;
    return 0;
}

static const luaL_Reg methods[] = {
    {"step", loop_step},
    {"fd", loop_fd},
    {"timeout", loop_timeout},
    {"wakeup", loop_wakeup},
    {"nudge", loop_nudge},
    {"sources", loop_sources},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", loop_gc}, {NULL, NULL}};

void osb_loop_open(lua_State *L)
{
    osb_object_define(L, "loop", methods, meta);
    lua_pushcfunction(L, loop_of_state);
    lua_setfield(L, -2, "loop");
}
