/* opensandbox.core: the module table and the context of a Lua state. */
#include "core.h"

#include <time.h>
#include <sys/stat.h>

#define CONTEXT_KEY "opensandbox.core.context"

#ifndef OSB_VERSION
#define OSB_VERSION "scm"
#endif

void osb_core_push_context(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, CONTEXT_KEY);
    if (!lua_isnil(L, -1))
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, CONTEXT_KEY);
}

static double read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double osb_core_now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

void osb_core_account(lua_State *L, size_t bytes)
{
    if (bytes >= 1024)
        lua_gc(L, LUA_GCSTEP, (int)(bytes / 1024 > 4096 ? 4096 : bytes / 1024));
}

static int core_now(lua_State *L)
{
    lua_pushnumber(L, osb_core_now());
    return 1;
}

static int core_time(lua_State *L)
{
    lua_pushnumber(L, read_clock(CLOCK_REALTIME));
    return 1;
}

static int core_context(lua_State *L)
{
    osb_core_push_context(L);
    return 1;
}

/* file_size(path) -> bytes of a regular file, or nil where there is none */
static int core_file_size(lua_State *L)
{
    struct stat info;
    if (stat(luaL_checkstring(L, 1), &info) != 0 || !S_ISREG(info.st_mode))
        return 0;
    lua_pushinteger(L, (lua_Integer)info.st_size);
    return 1;
}

static const luaL_Reg functions[] = {
    {"now", core_now}, {"time", core_time}, {"context", core_context}, {"file_size", core_file_size}, {NULL, NULL},
};

/* What this file was built for. core.lua looks for this text in a file that can't be loaded. */
static const char built_for[] = "opensandbox.core for " LUA_VERSION;

#if defined(_WIN32)
#define OSB_EXPORT __declspec(dllexport)
#else
#define OSB_EXPORT __attribute__((visibility("default")))
#endif

OSB_EXPORT int luaopen_opensandbox_core(lua_State *L);

int luaopen_opensandbox_core(lua_State *L)
{
    lua_newtable(L);
    osb_compat_setfuncs(L, functions);
    lua_pushliteral(L, OSB_VERSION);
    lua_setfield(L, -2, "_VERSION");
    lua_pushstring(L, built_for);
    lua_setfield(L, -2, "_DESCRIPTION");
    osb_object_open(L);
    osb_loop_open(L);
    osb_timer_open(L);
    osb_transfer_open(L);
    osb_capture_open(L);
    osb_process_open(L);
    osb_path_open(L);
    osb_watch_open(L);
    osb_websocket_open(L);
    return 1;
}
