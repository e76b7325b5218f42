/* A point in time that can be waited for. */
#include "core.h"
#include "loop.h"

#include <string.h>

#define TIMER_NAME OSB_KIND_PREFIX "timer"

struct osb_timer {
    struct osb_source source; /* first */
    double at;
};

static void on_due(struct osb_source *source, double now)
{
    (void)now;
    osb_loop_ready(source);
}

/* core.timer(at) -> timer; `at` on the clock of core.now */
static int timer_new(lua_State *L)
{
    double at = luaL_checknumber(L, 1);
    struct osb_loop *loop = osb_loop_get(L);
    struct osb_timer *timer = osb_compat_newuserdata(L, sizeof *timer);
    memset(timer, 0, sizeof *timer);
    timer->at = at;
    timer->source.on_due = on_due;
    timer->source.on_loop_close = osb_loop_remove;
    luaL_getmetatable(L, TIMER_NAME);
    lua_setmetatable(L, -2);
    osb_loop_add(loop, &timer->source);
    if (!osb_loop_arm(&timer->source, at))
        return luaL_error(L, "out of memory");
    return 1;
}

static struct osb_timer *check_timer(lua_State *L)
{
    return luaL_checkudata(L, 1, TIMER_NAME);
}

static int timer_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_timer(L)->source.id);
    return 1;
}

static int timer_ready(lua_State *L)
{
    struct osb_timer *timer = check_timer(L);
    bool ready = osb_core_now() >= timer->at;
    if (!ready) {
        timer->source.awaited = true;
        osb_loop_arm(&timer->source, timer->at);
    }
    lua_pushboolean(L, ready);
    return 1;
}

static int timer_gc(lua_State *L)
{
    struct osb_timer *timer = check_timer(L);
    if (timer->source.loop && !osb_loop_is_foreign(timer->source.loop))
        osb_loop_remove(&timer->source);
    return 0;
}

static const luaL_Reg methods[] = {{"id", timer_id}, {"ready", timer_ready}, {"cancel", timer_gc}, {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", timer_gc}, {NULL, NULL}};

void osb_timer_open(lua_State *L)
{
    osb_object_define(L, "timer", methods, meta);
    lua_pushcfunction(L, timer_new);
    lua_setfield(L, -2, "timer");
}
