#include "capture.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../common/buf.h"
#include "core.h"

#define CAPTURE_NAME OSB_KIND_PREFIX "capture"
#define MAX_EVENTS ((size_t)4 << 20)

struct captured {
    size_t end; /* of its text in `text`, a line's end included; it starts where the one before ends */
    double timestamp;
    enum osb_output output;
};

struct osb_capture {
    struct osb_buf text;
    struct captured *events;
    size_t count, cap;
    size_t counts[2]; /* of events, per output */
    size_t limit;
    size_t bytes[2];  /* per output, line ends included */
    bool is_of_lines; /* a "\n" is kept behind each text */
    bool truncated;
};

struct osb_capture *osb_capture_opt(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? NULL : luaL_checkudata(L, index, CAPTURE_NAME);
}

static struct osb_capture *check_capture(lua_State *L)
{
    return luaL_checkudata(L, 1, CAPTURE_NAME);
}

void osb_capture_add(lua_State *L, struct osb_capture *capture, enum osb_output output, const char *text, size_t len,
                     double timestamp)
{
    size_t room = capture->limit - capture->bytes[output];
    if (capture->count == MAX_EVENTS || len > room) {
        capture->truncated = true;
        if (capture->count == MAX_EVENTS || room == 0)
            return;
        len = room;
    }
    if (capture->count == capture->cap) {
        size_t cap = capture->cap ? capture->cap * 2 : 16;
        struct captured *events = realloc(capture->events, cap * sizeof *events);
        if (!events)
            luaL_error(L, "out of memory");
        osb_core_account(L, (cap - capture->cap) * sizeof *events);
        capture->events = events;
        capture->cap = cap;
    }
    size_t had = capture->text.cap;
    if (!osb_buf_reserve(&capture->text, len + 1))
        luaL_error(L, "out of memory");
    osb_buf_append(&capture->text, text, len);
    if (capture->is_of_lines)
        osb_buf_append_byte(&capture->text, '\n');
    if (capture->text.cap > had)
        osb_core_account(L, capture->text.cap - had);
    capture->events[capture->count++] = (struct captured){capture->text.len, timestamp, output};
    capture->counts[output]++;
    capture->bytes[output] += len < room ? len + 1 : room;
}

/* core.capture(limit, lines): at most `limit` bytes per output; with `lines` events are lines without their ends */
static int capture_new(lua_State *L)
{
    lua_Number limit = luaL_checknumber(L, 1);
    luaL_argcheck(L, limit >= 0 && limit < 9e15, 1, "a size in bytes expected");
    struct osb_capture *capture = osb_compat_newuserdata(L, sizeof *capture);
    memset(capture, 0, sizeof *capture);
    capture->limit = (size_t)limit;
    capture->is_of_lines = lua_toboolean(L, 2) != 0;
    luaL_getmetatable(L, CAPTURE_NAME);
    lua_setmetatable(L, -2);
    return 1;
}

static bool matches(const struct captured *event, int output)
{
    return output < 0 || (int)event->output == output;
}

/* Which events an argument means: "stdout", "stderr" or "output" (both). */
static int check_output(lua_State *L, int index)
{
    static const char *const names[] = {"stdout", "stderr", "output", NULL};
    int choice = luaL_checkoption(L, index, NULL, names);
    return choice == 2 ? -1 : choice;
}

/* The text of an event, without its line end. */
static struct osb_slice text_of(const struct osb_capture *capture, size_t index)
{
    size_t start = index > 0 ? capture->events[index - 1].end : 0;
    size_t line_end = capture->is_of_lines ? 1 : 0;
    return (struct osb_slice){osb_buf_data(&capture->text) + start, capture->events[index].end - start - line_end};
}

/* Pushes the texts of one of two outputs that both have some. */
static void push_selected(lua_State *L, const struct osb_capture *capture, int output)
{
    size_t line_end = capture->is_of_lines ? 1 : 0;
    char *text = lua_newuserdata(L, capture->text.len), *to = text;
    for (size_t i = 0; i < capture->count; i++) {
        if (!matches(&capture->events[i], output))
            continue;
        struct osb_slice event = text_of(capture, i);
        memcpy(to, event.ptr, event.len + line_end);
        to += event.len + line_end;
    }
    lua_pushlstring(L, text, (size_t)(to - text) - line_end);
    lua_remove(L, -2);
}

/* capture:text(which) -> its events in one string; lines are joined by "\n", without one at the end */
static int capture_text(lua_State *L)
{
    const struct osb_capture *capture = check_capture(L);
    int output = check_output(L, 2);
    size_t count = output < 0 ? capture->count : capture->counts[output];
    if (count == 0)
        lua_pushliteral(L, "");
    else if (count == capture->count)
        lua_pushlstring(L, osb_buf_data(&capture->text), capture->text.len - (capture->is_of_lines ? 1 : 0));
    else
        push_selected(L, capture, output);
    return 1;
}

/* capture:logs(which) -> array of {text=, timestamp=} */
static int capture_logs(lua_State *L)
{
    const struct osb_capture *capture = check_capture(L);
    int output = check_output(L, 2);
    int count = 0;
    lua_newtable(L);
    for (size_t i = 0; i < capture->count; i++) {
        if (!matches(&capture->events[i], output))
            continue;
        struct osb_slice text = text_of(capture, i);
        lua_createtable(L, 0, 2);
        lua_pushlstring(L, text.ptr, text.len);
        lua_setfield(L, -2, "text");
        lua_pushnumber(L, capture->events[i].timestamp);
        lua_setfield(L, -2, "timestamp");
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

static int capture_truncated(lua_State *L)
{
    lua_pushboolean(L, check_capture(L)->truncated);
    return 1;
}

static int capture_gc(lua_State *L)
{
    struct osb_capture *capture = check_capture(L);
    osb_buf_free(&capture->text);
    free(capture->events);
    memset(capture, 0, sizeof *capture);
    return 0;
}

static const luaL_Reg methods[] = {
    {"text", capture_text},
    {"logs", capture_logs},
    {"truncated", capture_truncated},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", capture_gc}, {NULL, NULL}};

void osb_capture_open(lua_State *L)
{
    osb_object_define(L, "capture", methods, meta);
    lua_pushcfunction(L, capture_new);
    lua_setfield(L, -2, "capture");
}
