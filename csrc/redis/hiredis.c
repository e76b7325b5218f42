/* opensandbox.hiredis: what the Redis store of the pool needs of libhiredis. Nothing here waits: the caller watches the
   descriptor, and calls `read` when there is input. */
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <string.h>

#include "core/compat.h"

#define CLIENT_NAME "opensandbox.hiredis.client"
#define MAX_ARGUMENTS 64
#define MAX_DEPTH 8 /* levels of lists in a reply */

struct osb_redis {
    redisContext *context; /* NULL once closed */
    redisReply *reply;     /* the one that is being turned into Lua values; freed with the client when that fails */
};

static struct osb_redis *check_client(lua_State *L)
{
    struct osb_redis *client = luaL_checkudata(L, 1, CLIENT_NAME);
    if (!client->context)
        luaL_error(L, "use of a closed Redis client");
    return client;
}

static int push_failure(lua_State *L, const redisContext *context)
{
    lua_pushnil(L);
    lua_pushstring(L, context->errstr[0] ? context->errstr : "the connection failed");
    return 2;
}

/* connect(host, port) or connect(path) -> client, whose connection may still be under way; or nil, message */
static int redis_connect(lua_State *L)
{
    const char *place = luaL_checkstring(L, 1);
    int port = (int)luaL_optinteger(L, 2, 0);
    struct osb_redis *client = lua_newuserdata(L, sizeof *client);
    memset(client, 0, sizeof *client);
    luaL_getmetatable(L, CLIENT_NAME);
    lua_setmetatable(L, -2);
    client->context = port > 0 ? redisConnectNonBlock(place, port) : redisConnectUnixNonBlock(place);
    if (!client->context)
        return luaL_error(L, "out of memory");
    if (client->context->err)
        return push_failure(L, client->context);
    return 1;
}

static int redis_fd(lua_State *L)
{
    lua_pushinteger(L, check_client(L)->context->fd);
    return 1;
}

/* client:send(word, …) puts a command into the client's buffer; or nil, message */
static int redis_send(lua_State *L)
{
    struct osb_redis *client = check_client(L);
    int count = lua_gettop(L) - 1;
    luaL_argcheck(L, count >= 1 && count <= MAX_ARGUMENTS, 2, "1 to 64 words expected");
    const char *words[MAX_ARGUMENTS];
    size_t lengths[MAX_ARGUMENTS];
    for (int i = 0; i < count; i++)
        words[i] = luaL_checklstring(L, i + 2, &lengths[i]);
    if (redisAppendCommandArgv(client->context, count, words, lengths) != REDIS_OK)
        return push_failure(L, client->context);
    lua_pushboolean(L, 1);
    return 1;
}

/* client:flush() -> true when all that was sent has left, false when some of it must wait; or nil, message */
static int redis_flush(lua_State *L)
{
    struct osb_redis *client = check_client(L);
    int done = 0;
    if (redisBufferWrite(client->context, &done) != REDIS_OK)
        return push_failure(L, client->context);
    lua_pushboolean(L, done);
    return 1;
}

static void push_reply(lua_State *L, const redisReply *reply, int depth)
{
    luaL_checkstack(L, 4, "a reply of Redis");
    switch (reply->type) {
    case REDIS_REPLY_INTEGER:
        lua_pushinteger(L, (lua_Integer)reply->integer);
        return;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
        lua_pushlstring(L, reply->str, (size_t)reply->len);
        return;
    case REDIS_REPLY_ARRAY:
        if (depth >= MAX_DEPTH)
            luaL_error(L, "a reply of Redis is nested too deeply");
        lua_newtable(L);
        for (size_t i = 0; i < reply->elements; i++) {
            push_reply(L, reply->element[i], depth + 1);
            lua_rawseti(L, -2, (int)i + 1);
        }
        return;
    default:
        lua_pushboolean(L, 0); /* nil: lists have no holes */
    }
}

/* client:read() takes in what has come -> true, reply (string, integer, list, or false for Redis's nil); false: not yet
   whole; nil, message: the connection failed; nil, message, true: Redis refused the command */
static int redis_read(lua_State *L)
{
    struct osb_redis *client = check_client(L);
    void *reply = NULL;
    if (redisBufferRead(client->context) != REDIS_OK || redisGetReplyFromReader(client->context, &reply) != REDIS_OK)
        return push_failure(L, client->context);
    if (!reply) {
        lua_pushboolean(L, 0);
        return 1;
    }
    client->reply = reply;
    bool refused = client->reply->type == REDIS_REPLY_ERROR;
    if (refused)
        lua_pushnil(L);
    else
        lua_pushboolean(L, 1);
    push_reply(L, client->reply, 0);
    lua_pushboolean(L, refused);
    freeReplyObject(client->reply);
    client->reply = NULL;
    return 3;
}

static int redis_close(lua_State *L)
{
    struct osb_redis *client = luaL_checkudata(L, 1, CLIENT_NAME);
    if (client->reply)
        freeReplyObject(client->reply);
    if (client->context)
        redisFree(client->context);
    memset(client, 0, sizeof *client);
    return 0;
}

static const luaL_Reg methods[] = {
    {"fd", redis_fd},     {"send", redis_send},   {"flush", redis_flush},
    {"read", redis_read}, {"close", redis_close}, {NULL, NULL},
};

static const luaL_Reg functions[] = {{"connect", redis_connect}, {NULL, NULL}};

__attribute__((visibility("default"))) int luaopen_opensandbox_hiredis(lua_State *L);

int luaopen_opensandbox_hiredis(lua_State *L)
{
    if (luaL_newmetatable(L, CLIENT_NAME)) {
        lua_newtable(L);
        osb_compat_setfuncs(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, redis_close);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    lua_newtable(L);
    osb_compat_setfuncs(L, functions);
    return 1;
}
