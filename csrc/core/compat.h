/* One source for Lua 5.1, LuaJIT, 5.2, 5.3 and 5.4: the few calls that differ. */
#ifndef OSB_COMPAT_H
#define OSB_COMPAT_H

#include <lauxlib.h>
#include <lua.h>

/* These never come back, which Lua's headers do not tell: for the compilers and the analyser. */
__attribute__((noreturn)) int(luaL_error)(lua_State *L, const char *format, ...);
__attribute__((noreturn)) int(luaL_argerror)(lua_State *L, int argument, const char *message);
__attribute__((noreturn)) int(lua_error)(lua_State *L);

/* A userdata of `size` bytes with one user value, which must be a table. */
static inline void *osb_compat_newuserdata(lua_State *L, size_t size)
{
#if LUA_VERSION_NUM >= 504
    return lua_newuserdatauv(L, size, 1);
#else
    return lua_newuserdata(L, size);
#endif
}

/* Pops a table and makes it the user value of the userdata at `index`. */
static inline void osb_compat_setuservalue(lua_State *L, int index)
{
#if LUA_VERSION_NUM >= 504
    lua_setiuservalue(L, index, 1);
#elif LUA_VERSION_NUM >= 502
    lua_setuservalue(L, index);
#else
    lua_setfenv(L, index);
#endif
}

/* Pushes the user value of the userdata at `index`. */
static inline void osb_compat_getuservalue(lua_State *L, int index)
{
#if LUA_VERSION_NUM >= 504
    lua_getiuservalue(L, index, 1);
#elif LUA_VERSION_NUM >= 502
    lua_getuservalue(L, index);
#else
    lua_getfenv(L, index);
#endif
}

/* luaL_setfuncs without upvalues; plain 5.1 has none. */
static inline void osb_compat_setfuncs(lua_State *L, const luaL_Reg *functions)
{
    for (; functions->name; functions++) {
        lua_pushcfunction(L, functions->func);
        lua_setfield(L, -2, functions->name);
    }
}

/* luaL_testudata; plain 5.1 has none. */
static inline void *osb_compat_testudata(lua_State *L, int index, const char *name)
{
    void *data = lua_touserdata(L, index);
    if (!data || !lua_getmetatable(L, index))
        return NULL;
    lua_getfield(L, LUA_REGISTRYINDEX, name);
    int same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same ? data : NULL;
}

static inline size_t osb_compat_rawlen(lua_State *L, int index)
{
#if LUA_VERSION_NUM >= 502
    return (size_t)lua_rawlen(L, index);
#else
    return lua_objlen(L, index);
#endif
}

static inline int osb_compat_absindex(lua_State *L, int index)
{
    return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

#endif
