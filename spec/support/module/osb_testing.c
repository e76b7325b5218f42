/* What specs need of the system and Lua does not have: fork, wait, exit without clean-up. Require it as "osb_testing".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/compat.h"

static void leave(int status, void *unused)
{
    (void)unused;
    fflush(NULL);
    _exit(status);
}

/* fork() -> 0 in the child, the child's pid in the parent. What the child leaves behind is no leak: it has to leave the
 * parent's loop alone; so it ends before the leak check of a sanitizer, which came first to exit and goes last. */
static int testing_fork(lua_State *L)
{
    pid_t pid = fork();
    if (pid == 0)
        on_exit(leave, NULL);
    lua_pushinteger(L, (lua_Integer)pid);
    return 1;
}

/* wait(pid) -> exit code, or 128 + signal */
static int testing_wait(lua_State *L)
{
    pid_t pid = (pid_t)luaL_checkinteger(L, 1);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return luaL_error(L, "waitpid failed");
    lua_pushinteger(L, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    return 1;
}

static int testing_getpid(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)getpid());
    return 1;
}

/* geteuid() -> 0 for root */
static int testing_geteuid(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)geteuid());
    return 1;
}

static const luaL_Reg functions[] = {
    {"fork", testing_fork},       {"wait", testing_wait}, {"getpid", testing_getpid},
    {"geteuid", testing_geteuid}, {NULL, NULL},
};

__attribute__((visibility("default"))) int luaopen_osb_testing(lua_State *L);

int luaopen_osb_testing(lua_State *L)
{
    lua_newtable(L);
    osb_compat_setfuncs(L, functions);
    return 1;
}
