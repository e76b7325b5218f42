/* What Lua sees of a transfer: a userdata that http.lua and stream.lua pull from. */
#include "transfer.h"

#include <string.h>

#include "capture.h"
#include "core.h"
#include "error.h"
#include "event.h"

struct transfer_handle {
    struct osb_transfer *transfer; /* NULL once cancelled or drained */
};

static struct osb_transfer *check_transfer(lua_State *L)
{
    const struct transfer_handle *handle = luaL_checkudata(L, 1, OSB_TRANSFER_NAME);
    if (!handle->transfer)
        luaL_error(L, "use of an ended transfer");
    return handle->transfer;
}

struct osb_transfer *osb_transfer_take(lua_State *L, int index)
{
    struct transfer_handle *handle = luaL_checkudata(L, index, OSB_TRANSFER_NAME);
    struct osb_transfer *transfer = handle->transfer;
    handle->transfer = NULL;
    return transfer;
}

/* core.transfer(options) -> transfer, or nil, code, message where it can't start. The options table is kept as user
   value: libcurl reads the request body from its string. */
static int transfer_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    struct osb_loop *loop = osb_loop_get(L);
    struct transfer_handle *handle = osb_compat_newuserdata(L, sizeof *handle);
    handle->transfer = NULL;
    lua_pushvalue(L, 1);
    osb_compat_setuservalue(L, -2);
    luaL_getmetatable(L, OSB_TRANSFER_NAME);
    lua_setmetatable(L, -2);
    struct osb_transfer *transfer = handle->transfer = osb_transfer_new();
    if (!transfer)
        return luaL_error(L, "out of memory");
    osb_core_account(L, (size_t)32 << 10);
    if (!osb_transfer_configure(L, 1, transfer) || !osb_transfer_start(transfer, loop)) {
        lua_pushnil(L);
        lua_pushstring(L, transfer->failure);
        lua_pushstring(L, transfer->failure_text);
        return 3;
    }
    lua_settop(L, 2);
    return 1;
}

static int transfer_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_transfer(L)->source.id);
    return 1;
}

static int transfer_ready(lua_State *L)
{
    lua_pushboolean(L, osb_transfer_is_ready(check_transfer(L)));
    return 1;
}

static int transfer_writable(lua_State *L)
{
    lua_pushboolean(L, osb_transfer_is_writable(check_transfer(L)));
    return 1;
}

static int transfer_done(lua_State *L)
{
    lua_pushboolean(L, check_transfer(L)->done);
    return 1;
}

/* transfer:status() -> HTTP status once the headers are there, else nil */
static int transfer_status(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    transfer->headers_new = false;
    if (!transfer->headers_seen)
        return 0;
    lua_pushinteger(L, transfer->status);
    return 1;
}

/* transfer:headers() -> lower-case names to values (several of one name joined by ", ") */
static int transfer_headers(lua_State *L)
{
    const struct osb_transfer *transfer = check_transfer(L);
    unsigned origin = transfer->status == 101 ? CURLH_1XX : CURLH_HEADER;
    struct curl_header *header = NULL;
    lua_newtable(L);
    while ((header = curl_easy_nextheader(transfer->easy, origin, -1, header))) {
        luaL_Buffer name;
        luaL_buffinit(L, &name);
        for (const char *byte = header->name; *byte; byte++)
            luaL_addchar(&name, *byte >= 'A' && *byte <= 'Z' ? (char)(*byte | 0x20) : *byte);
        luaL_pushresult(&name);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushstring(L, header->value);
        } else {
            lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), header->value);
            lua_remove(L, -2);
        }
        lua_rawset(L, -3);
    }
    return 1;
}

/* transfer:body() -> everything received and not yet taken */
static int transfer_body(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    lua_pushlstring(L, osb_buf_data(&transfer->in), transfer->in.len);
    osb_buf_free(&transfer->in);
    return 1;
}

#define READ_LIMIT ((size_t)64 << 10) /* larger strings would come from fresh pages each time */

/* transfer:read() -> the next chunk of a queue, at most READ_LIMIT bytes, or nil when there is none now */
static int transfer_read(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    transfer->headers_new = false;
    if (transfer->in.len == 0)
        return 0;
    size_t len = transfer->in.len < READ_LIMIT ? transfer->in.len : READ_LIMIT;
    lua_pushlstring(L, osb_buf_data(&transfer->in), len);
    osb_buf_consume(&transfer->in, len);
    osb_transfer_resume(transfer);
    return 1;
}

/* Takes the next frame out of the queue. The view stays valid until finish_frame. */
static enum osb_frame_status next_frame(struct osb_transfer *transfer, struct osb_frame_view *view, size_t *consumed)
{
    *consumed = 0;
    transfer->headers_new = false;
    return osb_frame_next(&transfer->frame, osb_buf_data(&transfer->in), transfer->in.len, transfer->done, view,
                          consumed);
}

static void finish_frame(struct osb_transfer *transfer, enum osb_frame_status status, size_t consumed)
{
    osb_buf_consume(&transfer->in, consumed);
    transfer->starved = status == OSB_FRAME_MORE;
    if (transfer->paused)
        osb_transfer_resume(transfer);
}

static int push_too_long(lua_State *L)
{
    lua_pushliteral(L, "limit");
    lua_pushfstring(L, "an event is longer than %d bytes", (int)OSB_FRAME_LIMIT);
    return 2;
}

/* transfer:frame() -> data, event, id of the next frame; nil when there is none now; "limit" as event is never sent:
   a frame that is too long is false, message */
static int transfer_frame(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    struct osb_frame_view view;
    size_t consumed;
    enum osb_frame_status status = next_frame(transfer, &view, &consumed);
    if (status == OSB_FRAME_TOO_LONG) {
        push_too_long(L);
        lua_pushboolean(L, 0);
        lua_replace(L, -3);
        return 2;
    }
    if (status == OSB_FRAME_MORE) {
        finish_frame(transfer, status, consumed);
        return 0;
    }
    lua_pushlstring(L, view.data.ptr, view.data.len);
    if (view.event.len > 0)
        lua_pushlstring(L, view.event.ptr, view.event.len);
    else
        lua_pushnil(L);
    if (view.has_id)
        lua_pushlstring(L, view.id.ptr, view.id.len);
    else
        lua_pushnil(L);
    finish_frame(transfer, status, consumed);
    return 3;
}

/* which events next() hands out; the others are only captured */
enum want { WANT_STDOUT = 1, WANT_STDERR = 2, WANT_PING = 4 };

static void push_seconds(lua_State *L, bool has, int64_t milliseconds)
{
    if (has)
        lua_pushnumber(L, (lua_Number)milliseconds / 1000);
    else
        lua_pushnil(L);
}

/* Types that say all in text and timestamp; the others are handed out as the whole JSON too. */
static bool is_plain(enum osb_event_type type)
{
    return type == OSB_EVENT_STDOUT || type == OSB_EVENT_STDERR || type == OSB_EVENT_INIT || type == OSB_EVENT_PING ||
           type == OSB_EVENT_COMPLETE;
}

static int push_event(lua_State *L, const struct osb_event *event, const struct osb_frame_view *view)
{
    if (event->type == OSB_EVENT_OTHER)
        lua_pushlstring(L, event->type_name.ptr, event->type_name.len);
    else
        lua_pushvalue(L, lua_upvalueindex((int)event->type + 1));
    if (event->has_text)
        lua_pushlstring(L, event->text.ptr, event->text.len);
    else
        lua_pushnil(L);
    push_seconds(L, event->has_timestamp, event->timestamp_ms);
    if (!is_plain(event->type)) {
        lua_pushlstring(L, view->data.ptr, view->data.len);
        return 4;
    }
    if (event->type != OSB_EVENT_COMPLETE)
        return 3;
    lua_pushnil(L);
    push_seconds(L, event->has_execution_time, event->execution_time_ms);
    return 5;
}

/* transfer:next(capture, want) -> type, text, timestamp, json, execution_time of the next event; nothing when there is
   none now. Failures: "decode" or "limit" as type with a message as text and `false` as timestamp. `want` is a sum of
   1 (stdout), 2 (stderr), 4 (ping): other output is only captured. Upvalues: the names of the event types. */
static int transfer_next(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    struct osb_capture *capture = osb_capture_opt(L, 2);
    int want = (int)luaL_optinteger(L, 3, WANT_STDOUT | WANT_STDERR);
    for (;;) {
        struct osb_frame_view view;
        size_t consumed;
        enum osb_frame_status status = next_frame(transfer, &view, &consumed);
        if (status == OSB_FRAME_TOO_LONG) {
            push_too_long(L);
            lua_pushboolean(L, 0);
            return 3;
        }
        if (status == OSB_FRAME_MORE) {
            finish_frame(transfer, status, consumed);
            return 0;
        }
        struct osb_event event;
        osb_buf_clear(&transfer->scratch);
        if (osb_event_decode(view.data.ptr, view.data.len, &transfer->scratch, &event) != 0) {
            lua_pushliteral(L, "decode");
            lua_pushlstring(L, view.data.ptr, view.data.len < 200 ? view.data.len : 200);
            lua_pushboolean(L, 0);
            lua_pushboolean(L, view.terminated);
            finish_frame(transfer, status, consumed);
            return 4;
        }
        int count = 0;
        if (event.type == OSB_EVENT_STDOUT || event.type == OSB_EVENT_STDERR) {
            bool is_error = event.type == OSB_EVENT_STDERR;
            /* execd sends a blank line as "\n"; lines have no ends */
            if (event.text.len == 1 && event.text.ptr[0] == '\n' && transfer->is_line_stream)
                event.text.len = 0;
            event.has_text = true;
            if (capture)
                osb_capture_add(L, capture, is_error ? OSB_OUTPUT_STDERR : OSB_OUTPUT_STDOUT, event.text.ptr,
                                event.text.len, event.has_timestamp ? (double)event.timestamp_ms / 1000 : 0);
            if (want & (is_error ? WANT_STDERR : WANT_STDOUT))
                count = push_event(L, &event, &view);
        } else if (event.type == OSB_EVENT_PING) {
            /* a server that pings is alive as long as it does */
            if (transfer->idle_timeout <= 0)
                transfer->idle_timeout = transfer->ping_idle_timeout;
            if (want & WANT_PING)
                count = push_event(L, &event, &view);
        } else {
            count = push_event(L, &event, &view);
        }
        finish_frame(transfer, status, consumed);
        if (count > 0)
            return count;
    }
}

/* transfer:push(bytes) adds to the upload; transfer:push() ends the current streamed part */
static int transfer_push(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    if (transfer->done || transfer->out_index >= transfer->out_count)
        return 0;
    if (transfer->out_ended)
        return luaL_error(L, "the part before is still being sent");
    if (lua_isnoneornil(L, 2)) {
        transfer->out_ended = true;
    } else {
        size_t len;
        const char *bytes = luaL_checklstring(L, 2, &len);
        if (!osb_buf_append(&transfer->out, bytes, len))
            return luaL_error(L, "out of memory");
    }
    osb_transfer_pushed(transfer);
    return 0;
}

/* transfer:progress() -> bytes received, bytes sent */
static int transfer_progress(lua_State *L)
{
    struct osb_transfer *transfer = check_transfer(L);
    transfer->progressed = false;
    lua_pushinteger(L, (lua_Integer)transfer->received);
    lua_pushinteger(L, (lua_Integer)transfer->sent);
    return 2;
}

/* transfer:failure() -> nil when it ended well (or goes on), else code, message, whether nothing can have been handled,
   whether it went over a connection that was kept from an earlier one */
static int transfer_failure(lua_State *L)
{
    const struct osb_transfer *transfer = check_transfer(L);
    struct osb_failure failure = {transfer->failure, true};
    const char *text = transfer->failure_text;
    if (!failure.code) {
        if (transfer->result == CURLE_OK)
            return 0;
        failure = osb_error_from_curl(transfer->result);
        text = transfer->error_text[0] ? transfer->error_text : curl_easy_strerror(transfer->result);
    }
    long sent = 0, connects = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &sent);
    curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects);
    lua_pushstring(L, failure.code);
    lua_pushstring(L, text);
    lua_pushboolean(L, failure.before_send && sent == 0);
    lua_pushboolean(L, connects == 0 && sent > 0);
    return 4;
}

/* transfer:sent() -> whether the request is on its way: the server may act on it */
static int transfer_sent(lua_State *L)
{
    lua_pushboolean(L, check_transfer(L)->sent_once);
    return 1;
}

static int transfer_cancel(lua_State *L)
{
    struct transfer_handle *handle = luaL_checkudata(L, 1, OSB_TRANSFER_NAME);
    osb_transfer_free(handle->transfer);
    handle->transfer = NULL;
    return 0;
}

/* transfer:drain() is a cancel that tries to keep the connection: the rest is read in the background for a moment */
static int transfer_drain(lua_State *L)
{
    struct transfer_handle *handle = luaL_checkudata(L, 1, OSB_TRANSFER_NAME);
    if (handle->transfer)
        osb_transfer_drain(handle->transfer);
    handle->transfer = NULL;
    return 0;
}

static const luaL_Reg methods[] = {
    {"id", transfer_id},
    {"ready", transfer_ready},
    {"writable", transfer_writable},
    {"done", transfer_done},
    {"status", transfer_status},
    {"headers", transfer_headers},
    {"body", transfer_body},
    {"read", transfer_read},
    {"frame", transfer_frame},
    {"push", transfer_push},
    {"progress", transfer_progress},
    {"failure", transfer_failure},
    {"sent", transfer_sent},
    {"cancel", transfer_cancel},
    {"drain", transfer_drain},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", transfer_cancel}, {NULL, NULL}};

void osb_transfer_open(lua_State *L)
{
    osb_object_define(L, "transfer", methods, meta);
    luaL_getmetatable(L, OSB_TRANSFER_NAME);
    lua_getfield(L, -1, "__index");
    for (int type = OSB_EVENT_UNTYPED; type <= OSB_EVENT_OTHER; type++)
        lua_pushstring(L, osb_event_type_name((enum osb_event_type)type));
    lua_pushcclosure(L, transfer_next, OSB_EVENT_OTHER + 1);
    lua_setfield(L, -2, "next");
    lua_pop(L, 2);
    lua_pushcfunction(L, transfer_new);
    lua_setfield(L, -2, "transfer");
}
