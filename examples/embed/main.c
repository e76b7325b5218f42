/* A program with a frame loop of its own and an agent in Lua: embed AGENT.lua

   Sixty times a second it does its own work and then gives the agent's tasks at most 2 ms. The agent waits for its
   sandbox in plain calls and never holds up a frame. When the agent's task has ended, the program prints its worst
   frame.

   Build it with: cc main.c -o embed $(pkg-config --cflags --libs lua5.4) -Wl,-E */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FRAME_NS 16666667L
#define BUDGET_SECONDS 0.002

static double seconds_since(const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* The program's own work of a frame; here it only computes a little. */
static double simulate(double state)
{
    for (int i = 0; i < 10000; i++)
        state += (state * state - 2) * -0.01;
    return state;
}

/* Runs the agent's file, which returns its task, and leaves on the stack: opensandbox.step, its options, the task. */
static bool start_agent(lua_State *L, const char *file)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "opensandbox");
    if (lua_pcall(L, 1, 1, 0))
        return false;
    lua_getfield(L, -1, "step");
    lua_remove(L, -2);
    lua_createtable(L, 0, 1);
    lua_pushnumber(L, BUDGET_SECONDS);
    lua_setfield(L, -2, "budget");
    return !luaL_loadfile(L, file) && !lua_pcall(L, 0, 1, 0);
}

/* One call of opensandbox.step; tells whether the agent goes on. */
static bool step_agent(lua_State *L, bool *failed)
{
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    *failed = lua_pcall(L, 1, 0, 0) != 0;
    if (*failed)
        return false;
    lua_getfield(L, 3, "status");
    bool running = lua_isstring(L, -1) && lua_tostring(L, -1)[0] == 'r';
    lua_pop(L, 1);
    return running;
}

int main(int argc, char **argv)
{
    lua_State *L = argc == 2 ? luaL_newstate() : NULL;
    if (!L) {
        fputs("usage: embed AGENT.lua\n", stderr);
        return 2;
    }
    luaL_openlibs(L);
    bool failed = !start_agent(L, argv[1]);
    struct timespec next, start;
    double worst = 0, state = 1;
    long frames = 0;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (bool running = !failed; running; frames++) {
        clock_gettime(CLOCK_MONOTONIC, &start);
        state = simulate(state);
        running = step_agent(L, &failed);
        double frame = seconds_since(&start);
        if (frame > worst)
            worst = frame;
        next.tv_nsec += FRAME_NS;
        if (next.tv_nsec >= 1000000000L) {
            next.tv_nsec -= 1000000000L;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    if (failed)
        fprintf(stderr, "embed: %s\n", lua_tostring(L, -1));
    else
        printf("%ld frames, the worst took %.2f ms (state %.3f)\n", frames, worst * 1000, state);
    lua_close(L);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
