/* The userdata kinds of the API. An object made here is an identity with a closed flag and one user value, its state
   table; what it does is Lua, put into its kind's method table by core.methods. Kinds implemented in C (loop, transfer,
   timer, capture, process) have structs of their own and only share osb_object_define. */
#include "core.h"

#include <stdbool.h>
#include <string.h>

struct osb_object {
    bool closed;
};

/* marks every metatable of ours, so that core.kind tells our objects from a stranger's */
static const char kind_key[] = "__osb_kind";

/* Pushes the metatable of `kind`, made when missing. */
static void push_metatable(lua_State *L, const char *kind)
{
    lua_pushfstring(L, OSB_KIND_PREFIX "%s", kind);
    if (luaL_newmetatable(L, lua_tostring(L, -1))) {
        lua_pushvalue(L, -2);
        lua_setfield(L, -2, "__name");
        lua_pushstring(L, kind);
        lua_setfield(L, -2, kind_key);
    }
    lua_remove(L, -2);
}

void osb_object_define(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta)
{
    push_metatable(L, name);
    lua_pushnil(L); /* its struct is not ours */
    lua_setfield(L, -2, kind_key);
    lua_newtable(L);
    osb_compat_setfuncs(L, methods);
    lua_setfield(L, -2, "__index");
    if (meta)
        osb_compat_setfuncs(L, meta);
    lua_pop(L, 1);
}

/* Pushes the kind of the value at `index` and says whether it is one of ours; pushes nothing when it is not. */
static bool push_kind(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
        return false;
    lua_pushstring(L, kind_key);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (lua_isstring(L, -1))
        return true;
    lua_pop(L, 1);
    return false;
}

/* Raises the message on top of the stack at the line of the user: the nearest Lua function outside the folder of the
   Lua method that called us. */
static int raise_at_caller(lua_State *L)
{
    lua_Debug method, caller;
    int level = 1;
    if (lua_getstack(L, level, &method)) {
        lua_getinfo(L, "S", &method);
        const char *slash = strrchr(method.source, '/');
        size_t folder = slash ? (size_t)(slash - method.source) + 1 : 0;
        while (folder > 0 && lua_getstack(L, level, &caller)) {
            lua_getinfo(L, "S", &caller);
            if (strcmp(caller.what, "C") != 0 && strncmp(caller.source, method.source, folder) != 0)
                break;
            level++;
        }
    }
    luaL_where(L, level);
    lua_insert(L, -2);
    lua_concat(L, 2);
    return lua_error(L);
}

/* Checks argument 1 against the kind named by argument 2. */
static struct osb_object *check_object(lua_State *L)
{
    const char *kind = luaL_checkstring(L, 2);
    if (push_kind(L, 1)) {
        bool same = strcmp(lua_tostring(L, -1), kind) == 0;
        if (same) {
            lua_pop(L, 1);
            return lua_touserdata(L, 1);
        }
        lua_pushfstring(L, OSB_KIND_PREFIX "%s expected, got " OSB_KIND_PREFIX "%s", kind, lua_tostring(L, -1));
    } else {
        lua_pushfstring(L, OSB_KIND_PREFIX "%s expected, got %s (call methods with ':')", kind, luaL_typename(L, 1));
    }
    raise_at_caller(L);
    return NULL;
}

/* state(obj, kind, allow_closed) -> state table */
static int object_state(lua_State *L)
{
    struct osb_object *object = check_object(L);
    if (object->closed && !lua_toboolean(L, 3)) {
        lua_pushfstring(L, "use of a closed %s", lua_tostring(L, 2));
        return raise_at_caller(L);
    }
    osb_compat_getuservalue(L, 1);
    return 1;
}

/* new(kind, state) -> userdata */
static int object_new(lua_State *L)
{
    const char *kind = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    struct osb_object *object = osb_compat_newuserdata(L, sizeof *object);
    object->closed = false;
    lua_pushvalue(L, 2);
    osb_compat_setuservalue(L, -2);
    push_metatable(L, kind);
    lua_setmetatable(L, -2);
    return 1;
}

static int object_kind(lua_State *L)
{
    return push_kind(L, 1) ? 1 : 0;
}

/* close(obj) -> whether it was open */
static int object_close(lua_State *L)
{
    struct osb_object *object = lua_touserdata(L, 1);
    luaL_argcheck(L, object && push_kind(L, 1), 1, "an object of opensandbox expected");
    lua_pushboolean(L, !object->closed);
    object->closed = true;
    return 1;
}

static int object_is_closed(lua_State *L)
{
    const struct osb_object *object = lua_touserdata(L, 1);
    luaL_argcheck(L, object && push_kind(L, 1), 1, "an object of opensandbox expected");
    lua_pushboolean(L, object->closed);
    return 1;
}

/* "opensandbox.sandbox: ID", from state.label or state.id */
static int object_tostring(lua_State *L)
{
    const struct osb_object *object = lua_touserdata(L, 1);
    if (!object || !push_kind(L, 1))
        return luaL_argerror(L, 1, "an object of opensandbox expected");
    const char *kind = lua_tostring(L, -1);
    osb_compat_getuservalue(L, 1);
    const char *label = NULL;
    if (lua_istable(L, -1)) {
        lua_getfield(L, -1, "label");
        lua_getfield(L, -2, "id");
        label = lua_isstring(L, -2) ? lua_tostring(L, -2) : lua_tostring(L, -1);
    }
    const char *end = object->closed ? " (closed)" : "";
    if (label)
        lua_pushfstring(L, OSB_KIND_PREFIX "%s: %s%s", kind, label, end);
    else
        lua_pushfstring(L, OSB_KIND_PREFIX "%s: %p%s", kind, lua_topointer(L, 1), end);
    return 1;
}

/* __index of kinds with public fields: a method, else a field of the state. Upvalues: methods, fields. */
static int object_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
    if (!lua_toboolean(L, -1) || lua_type(L, 1) != LUA_TUSERDATA)
        return 0;
    osb_compat_getuservalue(L, 1);
    lua_pushvalue(L, 2);
    lua_gettable(L, -2); /* a state may make a field when it is first read */
    return 1;
}

/* methods(kind, methods, metamethods): methods.__fields names the fields of the state that users may read */
static int object_methods(lua_State *L)
{
    const char *kind = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    bool has_meta = !lua_isnoneornil(L, 3);
    if (has_meta)
        luaL_checktype(L, 3, LUA_TTABLE);
    push_metatable(L, kind);
    int metatable = lua_gettop(L);
    lua_pushcfunction(L, object_tostring);
    lua_setfield(L, metatable, "__tostring");
    lua_pushcfunction(L, object_close);
    lua_setfield(L, metatable, "__gc");
    lua_pushcfunction(L, object_close);
    lua_setfield(L, metatable, "__close");
    lua_getfield(L, 2, "__fields");
    if (lua_istable(L, -1)) {
        lua_pushvalue(L, 2);
        lua_insert(L, -2);
        lua_pushcclosure(L, object_index, 2);
    } else {
        lua_pop(L, 1);
        lua_pushvalue(L, 2);
    }
    lua_setfield(L, metatable, "__index");
    if (has_meta) {
        lua_pushnil(L);
        while (lua_next(L, 3)) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, metatable);
        }
    }
    lua_pushvalue(L, 2);
    return 1;
}

static const luaL_Reg functions[] = {
    {"methods", object_methods},
    {"new", object_new},
    {"state", object_state},
    {"kind", object_kind},
    {"close", object_close},
    {"is_closed", object_is_closed},
    {NULL, NULL},
};

void osb_object_open(lua_State *L)
{
    osb_compat_setfuncs(L, functions);
}
