/* A descriptor of somebody else's that can be waited for: it is watched for input (or its end), never read. */
#include "core.h"
#include "loop.h"

#include <string.h>

#define WATCH_NAME OSB_KIND_PREFIX "watch"

struct osb_watch {
    struct osb_source source; /* first */
    int fd;
    bool has_input; /* since the last `again` */
};

static void on_due(struct osb_source *source, double now)
{
    (void)source;
    (void)now;
}

static void on_fd(struct osb_source *source)
{
    struct osb_watch *watch = (struct osb_watch *)source;
    osb_loop_unwatch(
        source); /* its owner reads only once it is told, and the loop must not turn on the spot until then */
    watch->has_input = true;
    osb_loop_ready(source);
}

/* core.watch(fd) -> watch. Whoever owns the descriptor closes the watch before it closes that. */
static int watch_new(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct osb_loop *loop = osb_loop_get(L);
    struct osb_watch *watch = osb_compat_newuserdata(L, sizeof *watch);
    memset(watch, 0, sizeof *watch);
    watch->fd = fd;
    watch->source.on_due = on_due;
    watch->source.on_fd = on_fd;
    watch->source.on_loop_close = osb_loop_remove;
    luaL_getmetatable(L, WATCH_NAME);
    lua_setmetatable(L, -2);
    osb_loop_add(loop, &watch->source);
    if (!osb_loop_watch(&watch->source, fd))
        return luaL_error(L, "the descriptor cannot be watched");
    return 1;
}

static struct osb_watch *check_watch(lua_State *L)
{
    return luaL_checkudata(L, 1, WATCH_NAME);
}

static int watch_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_watch(L)->source.id);
    return 1;
}

/* watch:ready() -> whether there was input since the last `again`; true once it is closed */
static int watch_ready(lua_State *L)
{
    struct osb_watch *watch = check_watch(L);
    bool ready = watch->has_input || !watch->source.loop;
    if (!ready)
        watch->source.awaited = true;
    lua_pushboolean(L, ready);
    return 1;
}

/* watch:again() watches on: for the owner, who has read what there was */
static int watch_again(lua_State *L)
{
    struct osb_watch *watch = check_watch(L);
    if (!watch->has_input || !watch->source.loop)
        return 0;
    watch->has_input = false;
    if (!osb_loop_watch(&watch->source, watch->fd))
        return luaL_error(L, "the descriptor cannot be watched");
    return 0;
}

static int watch_close(lua_State *L)
{
    struct osb_watch *watch = check_watch(L);
    if (watch->source.loop && !osb_loop_is_foreign(watch->source.loop))
        osb_loop_remove(&watch->source);
    return 0;
}

static const luaL_Reg methods[] = {
    {"id", watch_id}, {"ready", watch_ready}, {"again", watch_again}, {"close", watch_close}, {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", watch_close}, {NULL, NULL}};

void osb_watch_open(lua_State *L)
{
    osb_object_define(L, "watch", methods, meta);
    lua_pushcfunction(L, watch_new);
    lua_setfield(L, -2, "watch");
}
