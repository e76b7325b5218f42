/* What Lua sees of a WebSocket: a userdata that websocket.lua sends to and pulls from. */
#include "websocket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nettle/base64.h>

#include "../common/websocket_accept.h"
#include "core.h"

#define WEBSOCKET_NAME OSB_KIND_PREFIX "websocket_core"

struct websocket_handle {
    struct osb_websocket *ws; /* NULL only in a userdata that is being made or collected */
};

static struct osb_websocket *check_websocket(lua_State *L)
{
    const struct websocket_handle *handle = luaL_checkudata(L, 1, WEBSOCKET_NAME);
    if (!handle->ws)
        luaL_error(L, "use of a collected WebSocket");
    return handle->ws;
}

/* core.websocket_key() -> a new Sec-WebSocket-Key, and the Sec-WebSocket-Accept that goes with it */
static int websocket_key(lua_State *L)
{
    uint8_t bytes[16];
    char key[OSB_WEBSOCKET_KEY_LEN], accept[OSB_WEBSOCKET_ACCEPT_LEN + 1];
    if (getentropy(bytes, sizeof bytes) != 0)
        return luaL_error(L, "the system gives no random numbers: %s", strerror(errno));
    base64_encode_raw(key, sizeof bytes, bytes);
    osb_websocket_accept(key, sizeof key, accept);
    lua_pushlstring(L, key, sizeof key);
    lua_pushstring(L, accept);
    return 2;
}

/* core.websocket(transfer, ping_interval) -> a WebSocket on a transfer whose status is 101; the transfer is an ended
   one then. ping_interval in seconds, 0 = no pings. */
static int websocket_new(lua_State *L)
{
    double interval = luaL_checknumber(L, 2);
    struct websocket_handle *handle = osb_compat_newuserdata(L, sizeof *handle);
    handle->ws = NULL;
    luaL_getmetatable(L, WEBSOCKET_NAME);
    lua_setmetatable(L, -2);
    struct osb_transfer *transfer = osb_transfer_take(L, 1);
    if (!transfer || !transfer->source.loop || transfer->status != 101) {
        osb_transfer_free(transfer);
        return luaL_argerror(L, 1, "a transfer that switched protocols expected");
    }
    handle->ws = osb_websocket_new(transfer, interval);
    if (!handle->ws)
        return luaL_error(L, "out of memory");
    osb_core_account(L, (size_t)16 << 10);
    return 1;
}

static int websocket_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_websocket(L)->source.id);
    return 1;
}

static int websocket_ready(lua_State *L)
{
    lua_pushboolean(L, osb_websocket_is_ready(check_websocket(L)));
    return 1;
}

static int websocket_writable(lua_State *L)
{
    lua_pushboolean(L, osb_websocket_is_writable(check_websocket(L)));
    return 1;
}

static int websocket_settled(lua_State *L)
{
    lua_pushboolean(L, osb_websocket_is_settled(check_websocket(L)));
    return 1;
}

/* ws:receive() -> message, is_text; nil when there is none now */
static int websocket_receive(lua_State *L)
{
    struct osb_websocket *ws = check_websocket(L);
    if (!ws->first)
        return 0;
    /* the copy first: where Lua's memory is out the message stays queued */
    lua_pushlstring(L, ws->first->bytes, ws->first->len);
    lua_pushboolean(L, ws->first->is_text);
    free(osb_websocket_take(ws));
    return 2;
}

/* ws:send(bytes, is_text) -> whether it was queued: not so when it has ended */
static int websocket_send(lua_State *L)
{
    struct osb_websocket *ws = check_websocket(L);
    size_t len;
    const char *bytes = luaL_checklstring(L, 2, &len);
    luaL_argcheck(L, len <= OSB_WEBSOCKET_MESSAGE_LIMIT, 2, "message too long");
    lua_pushboolean(L, osb_websocket_send(ws, lua_toboolean(L, 3) != 0, bytes, len));
    return 1;
}

/* ws:close(code, reason) asks the peer to close -> false where the protocol forbids the code or reason */
static int websocket_close(lua_State *L)
{
    struct osb_websocket *ws = check_websocket(L);
    lua_Integer code = luaL_checkinteger(L, 2);
    size_t len;
    const char *reason = luaL_checklstring(L, 3, &len);
    lua_pushboolean(L, code > 0 && code < 65536 && osb_websocket_close(ws, (unsigned)code, reason, len));
    return 1;
}

/* ws:ended() -> whether no further message comes; those received are still to be had */
static int websocket_ended(lua_State *L)
{
    lua_pushboolean(L, check_websocket(L)->ended);
    return 1;
}

/* ws:failure() -> nil while it goes on and when it was closed, else code, message */
static int websocket_failure(lua_State *L)
{
    const struct osb_websocket *ws = check_websocket(L);
    if (!ws->failure)
        return 0;
    lua_pushstring(L, ws->failure);
    lua_pushstring(L, ws->failure_text);
    return 2;
}

/* ws:close_status() -> code and reason of the peer's closing frame; 1006 and "" where none came, 1005 where it had none
 */
static int websocket_close_status(lua_State *L)
{
    const struct osb_websocket *ws = check_websocket(L);
    lua_pushinteger(L, (lua_Integer)ws->close_code);
    lua_pushlstring(L, ws->reason, ws->reason_len);
    return 2;
}

/* ws:drop() ends it here and now, without a closing handshake; who waits for it is woken up */
static int websocket_drop(lua_State *L)
{
    osb_websocket_drop(check_websocket(L));
    return 0;
}

static int websocket_gc(lua_State *L)
{
    struct websocket_handle *handle = luaL_checkudata(L, 1, WEBSOCKET_NAME);
    osb_websocket_free(handle->ws);
    handle->ws = NULL;
    return 0;
}

static const luaL_Reg methods[] = {
    {"id", websocket_id},
    {"ready", websocket_ready},
    {"writable", websocket_writable},
    {"settled", websocket_settled},
    {"receive", websocket_receive},
    {"send", websocket_send},
    {"close", websocket_close},
    {"ended", websocket_ended},
    {"failure", websocket_failure},
    {"close_status", websocket_close_status},
    {"drop", websocket_drop},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", websocket_gc}, {NULL, NULL}};

void osb_websocket_open(lua_State *L)
{
    osb_object_define(L, "websocket_core", methods, meta);
    lua_pushcfunction(L, websocket_key);
    lua_setfield(L, -2, "websocket_key");
    lua_pushcfunction(L, websocket_new);
    lua_setfield(L, -2, "websocket");
}
