/* Several Lua states in one process: apart from each other, closed while they are busy, in threads of their own. Each
   has the core linked in, the SDK from LUA_PATH and an embedded runtime of its own. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS 2
#define SECONDS 20 /* for what should come at once */

int luaopen_opensandbox_core(lua_State *L);

static lua_State *open_state(void)
{
    lua_State *L = luaL_newstate();
    if (!L)
        return NULL;
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_opensandbox_core);
    lua_setfield(L, -2, "opensandbox.core");
    lua_pop(L, 2);
    return L;
}

/* Runs Lua code; its error message, which lives as long as it stays on the stack, or NULL. */
static const char *run(lua_State *L, const char *source)
{
    return luaL_loadstring(L, source) || lua_pcall(L, 0, 0, 0) ? lua_tostring(L, -1) : NULL;
}

static void assert_runs(lua_State *L, const char *source)
{
    const char *problem = run(L, source);
    if (problem)
        fail_msg("%s", problem);
}

static const char make_sandbox[] = "opensandbox = require 'opensandbox'\n"
                                   "sandbox = assert(opensandbox.create { connection = { domain = 'local' } })\n"
                                   "function say(word)\n"
                                   "  assert(assert(sandbox.commands:run('echo ' .. word)).stdout == word)\n"
                                   "end";

/* Everything that can be under way at once: streams, an upload that waits for its data, timers, tasks, processes. */
static const char be_busy[] =
    "local began = 0\n"
    "for i = 1, 5 do\n"
    "  opensandbox.spawn(function()\n"
    "    sandbox.commands:run('echo; sleep 600', { on_stdout = function() began = began + 1 end })\n"
    "  end)\n"
    "end\n"
    "opensandbox.spawn(function()\n"
    "  sandbox.files:write('/tmp/endless', function() opensandbox.sleep(0.01) return ('x'):rep(1000) end)\n"
    "end)\n"
    "stream = assert(sandbox.commands:stream('yes'))\n"
    "assert(stream:next())\n"
    "waiting = opensandbox.spawn(opensandbox.sleep, 600)\n"
    "opensandbox.spawn(function() waiting:join() end)\n"
    "process = assert(require('opensandbox.core').process { argv = { 'cat' } })\n"
    "while began < 5 do opensandbox.sleep(0.005) end\n";

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static bool has_children(void)
{
    char text[16] = "";
    FILE *file = fopen("/proc/thread-self/children", "r");
    assert_non_null(file);
    bool any = fgets(text, sizeof text, file) != NULL;
    fclose(file);
    return any;
}

static void await_no_children(void)
{
    struct timespec pause = {.tv_nsec = 10000000};
    for (int i = 0; i < SECONDS * 100 && has_children(); i++)
        nanosleep(&pause, NULL);
    assert_false(has_children());
}

static void test_states_are_apart(void **unused)
{
    (void)unused;
    lua_State *states[3];
    for (int i = 0; i < 3; i++) {
        states[i] = open_state();
        assert_non_null(states[i]);
        assert_runs(states[i], make_sandbox);
    }
    assert_runs(states[0], be_busy);
    assert_runs(states[1], be_busy);
    lua_close(states[0]);
    assert_runs(states[1], "say 'busy'");
    assert_runs(states[2], "say 'idle'");
    lua_close(states[2]);
    assert_runs(states[1], "say 'still'; assert(stream:next()); assert(stream:cancel())");
    lua_close(states[1]);
    await_no_children();
}

static void test_a_busy_state_is_closed(void **unused)
{
    (void)unused;
    for (int round = 0; round < 3; round++) {
        lua_State *L = open_state();
        int before = count_descriptors();
        assert_non_null(L);
        assert_runs(L, make_sandbox);
        assert_runs(L, be_busy);
        if (round == 1) /* in any order of finalizers */
            assert_runs(L, "sandbox = nil collectgarbage() collectgarbage()");
        if (round == 2) /* inside of a step, too */
            assert_runs(L, "for i = 1, 10 do opensandbox.step { budget = 0 } end");
        lua_close(L);
        assert_int_equal(count_descriptors(), before);
        await_no_children();
    }
}

/* A thread's whole life with opensandbox; its failure as a copied message, else NULL. */
static void *live(void *unused)
{
    (void)unused;
    lua_State *L = open_state();
    char *problem = NULL;
    const char *message = L ? run(L, make_sandbox) : "no state";
    if (!message)
        message = run(L, "local words = {}\n"
                         "for i = 1, 20 do words[i] = function() say(i .. ' in thread') end end\n"
                         "for i = 1, 3 do assert(opensandbox.gather(words)) end\n"
                         "assert(sandbox.files:write('/tmp/file', ('x'):rep(3e6)))\n"
                         "assert(#sandbox.files:read('/tmp/file') == 3e6)\n");
    if (!message)
        message = run(L, be_busy);
    if (message)
        problem = strdup(message);
    if (L)
        lua_close(L);
    return problem;
}

static void test_states_in_threads(void **unused)
{
    (void)unused;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, live, NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        void *problem = NULL;
        pthread_join(threads[i], &problem);
        if (problem)
            fail_msg("%s", (char *)problem);
    }
    await_no_children();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states_are_apart),
        cmocka_unit_test(test_a_busy_state_is_closed),
        cmocka_unit_test(test_states_in_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
