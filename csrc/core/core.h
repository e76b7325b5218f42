/* What the files of the C core share: the per-state context and each file's opener. */
#ifndef OSB_CORE_H
#define OSB_CORE_H

#include "compat.h"

#define OSB_KIND_PREFIX "opensandbox."

/* Pushes the table that lives as long as the Lua state and survives a reload of the module. */
void osb_core_push_context(lua_State *L);

/* Monotonic clock in seconds. */
double osb_core_now(void);

/* Tells the collector of `bytes` that C holds for Lua objects. */
void osb_core_account(lua_State *L, size_t bytes);

/* Each adds its functions to the module table on top of the stack. */
void osb_object_open(lua_State *L);
void osb_loop_open(lua_State *L);
void osb_timer_open(lua_State *L);
void osb_transfer_open(lua_State *L);
void osb_capture_open(lua_State *L);
void osb_process_open(lua_State *L);
void osb_path_open(lua_State *L);
void osb_watch_open(lua_State *L);
void osb_websocket_open(lua_State *L);

/* Creates (or finds) the metatable of a kind made in C: `methods` under __index, `meta` (may be NULL) in the metatable
   itself. Leaves nothing on the stack. */
void osb_object_define(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);

#endif
