/* A child process of this Lua state: started with pipes on stdin and stdout, ended with its stdin. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../common/buf.h"
#include "core.h"
#include "loop.h"

#define PROCESS_NAME OSB_KIND_PREFIX "process"
#define OUTPUT_LIMIT ((size_t)1 << 20) /* unread output held; beyond it the child waits */
#define INPUT_LIMIT 4096               /* what every empty pipe takes at once */
#define MAX_ARGUMENTS 256

extern char **environ;

struct osb_process {
    struct osb_source source; /* first */
    pid_t pid;                /* 0 once reaped */
    int status;               /* of waitpid, once reaped */
    int stdin_fd, stdout_fd;
    bool ended;  /* nothing more will come from stdout */
    size_t seen; /* bytes of `output` known to hold no line end */
    struct osb_buf output;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- output ---- */

static void end_output(struct osb_process *process)
{
    osb_loop_unwatch(&process->source);
    close_fd(&process->stdout_fd);
    process->ended = true;
}

static void on_fd(struct osb_source *source)
{
    struct osb_process *process = (struct osb_process *)source;
    if (process->output.len >= OUTPUT_LIMIT || !osb_buf_reserve(&process->output, 4096)) {
        osb_loop_unwatch(source); /* read_line watches again */
        osb_loop_ready(source);
        return;
    }
    char *end = osb_buf_data(&process->output) + process->output.len;
    ssize_t count = read(process->stdout_fd, end, 4096);
    if (count > 0)
        process->output.len += (size_t)count;
    else if (count == 0 || (errno != EINTR && errno != EAGAIN))
        end_output(process);
    osb_loop_ready(source);
}

static void on_due(struct osb_source *source, double now)
{
    (void)source;
    (void)now;
}

/* ---- starting ---- */

static char **string_list(lua_State *L, int index, const char *name)
{
    size_t count = osb_compat_rawlen(L, index);
    luaL_argcheck(L, count <= MAX_ARGUMENTS * 16, 1, name);
    char **list = lua_newuserdata(L, (count + 1) * sizeof(char *)); /* anchored on the stack */
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, index, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "%s: strings expected", name);
        list[i] = (char *)(uintptr_t)lua_tostring(L, -1); /* the table keeps it alive */
        lua_pop(L, 1);
    }
    list[count] = NULL;
    return list;
}

/* Starts argv with the given pipe ends as its stdin and stdout and nothing else open. Returns an errno. */
static int spawn(pid_t *pid, char **argv, char **env, int input, int output)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    int code = posix_spawn_file_actions_init(&actions);
    if (code)
        return code;
    code = posix_spawnattr_init(&attributes);
    if (code) {
        posix_spawn_file_actions_destroy(&actions);
        return code;
    }
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    code = posix_spawnp(pid, argv[0], &actions, &attributes, argv, env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* core.process{argv={…}, env={"K=V", …}, input="…"} -> process, or nil, message. env nil: this process's environment.
   input (at most INPUT_LIMIT bytes) is what it reads first on its stdin: for secrets, which no argument and no variable
   may hold. */
static int process_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    struct osb_loop *loop = osb_loop_get(L);
    lua_getfield(L, 1, "argv");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 1, "env");
    char **argv = string_list(L, 2, "argv");
    if (!argv[0])
        return luaL_error(L, "argv is empty");
    char **env = lua_istable(L, 3) ? string_list(L, 3, "env") : environ;
    size_t input_len = 0;
    lua_getfield(L, 1, "input");
    const char *first_input = luaL_optlstring(L, -1, "", &input_len); /* the options table keeps it alive */
    luaL_argcheck(L, input_len <= INPUT_LIMIT, 1, "input is too long");
    struct osb_process *process = osb_compat_newuserdata(L, sizeof *process);
    memset(process, 0, sizeof *process);
    process->source.on_due = on_due;
    process->source.on_fd = on_fd;
    process->source.on_loop_close = osb_loop_remove;
    process->stdin_fd = process->stdout_fd = -1;
    luaL_getmetatable(L, PROCESS_NAME);
    lua_setmetatable(L, -2);
    int input[2], output[2];
    if (pipe2(input, O_CLOEXEC) != 0) {
        lua_pushnil(L);
        lua_pushstring(L, strerror(errno));
        return 2;
    }
    if (pipe2(output, O_CLOEXEC) != 0) {
        int code = errno;
        close(input[0]);
        close(input[1]);
        lua_pushnil(L);
        lua_pushstring(L, strerror(code));
        return 2;
    }
    process->stdin_fd = input[1];
    process->stdout_fd = output[0];
    /* into the empty pipe of which both ends are here: neither a wait nor SIGPIPE */
    int code = input_len > 0 && write(input[1], first_input, input_len) < 0 ? errno : 0;
    if (!code)
        code = spawn(&process->pid, argv, env, input[0], output[1]);
    close(input[0]);
    close(output[1]);
    if (code) {
        process->pid = 0;
        lua_pushnil(L);
        lua_pushfstring(L, "%s can't be started: %s", argv[0], strerror(code));
        return 2;
    }
    fcntl(process->stdout_fd, F_SETFL, O_NONBLOCK);
    osb_loop_add(loop, &process->source);
    if (!osb_loop_watch(&process->source, process->stdout_fd))
        return luaL_error(L, "the output of %s can't be watched: %s", argv[0], strerror(errno));
    return 1;
}

/* ---- methods ---- */

static struct osb_process *check_process(lua_State *L)
{
    return luaL_checkudata(L, 1, PROCESS_NAME);
}

static int process_id(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_process(L)->source.id);
    return 1;
}

static int process_pid(lua_State *L)
{
    lua_pushinteger(L, check_process(L)->pid);
    return 1;
}

static const char *find_line_end(struct osb_process *process)
{
    const char *bytes = osb_buf_data(&process->output);
    const char *end = NULL;
    if (process->output.len > process->seen)
        end = memchr(bytes + process->seen, '\n', process->output.len - process->seen);
    if (!end)
        process->seen = process->output.len;
    return end;
}

/* process:ready() -> whether read_line has something to say */
static int process_ready(lua_State *L)
{
    struct osb_process *process = check_process(L);
    bool ready = process->ended || !process->source.loop || process->output.len >= OUTPUT_LIMIT ||
                 find_line_end(process) != NULL;
    if (!ready)
        process->source.awaited = true;
    lua_pushboolean(L, ready);
    return 1;
}

/* process:read_line() -> the next line without its end; nil when there is none now, nil, "eof" when none will come */
static int process_read_line(lua_State *L)
{
    struct osb_process *process = check_process(L);
    const char *bytes = osb_buf_data(&process->output);
    const char *end = find_line_end(process);
    bool whole = end != NULL;
    if (!whole && (process->ended || process->output.len >= OUTPUT_LIMIT) && process->output.len > 0)
        end = bytes + process->output.len;
    if (!end) {
        lua_pushnil(L);
        if (!process->ended)
            return 1;
        lua_pushliteral(L, "eof");
        return 2;
    }
    lua_pushlstring(L, bytes, (size_t)(end - bytes));
    osb_buf_consume(&process->output, (size_t)(end - bytes) + whole);
    process->seen = 0;
    if (process->source.fd < 0 && process->stdout_fd >= 0)
        osb_loop_watch(&process->source, process->stdout_fd);
    return 1;
}

/* process:kill(signal) */
static int process_kill(lua_State *L)
{
    const struct osb_process *process = check_process(L);
    int signal_number = (int)luaL_optinteger(L, 2, SIGTERM);
    lua_pushboolean(L, process->pid > 0 && kill(process->pid, signal_number) == 0);
    return 1;
}

/* Reaps it if it has ended. */
static void reap(struct osb_process *process)
{
    pid_t pid;
    if (process->pid <= 0)
        return;
    do
        pid = waitpid(process->pid, &process->status, WNOHANG);
    while (pid < 0 && errno == EINTR);
    if (pid != 0)
        process->pid = 0;
}

/* process:exit_code() -> nil while it runs; its exit code, or 128 + signal */
static int process_exit_code(lua_State *L)
{
    struct osb_process *process = check_process(L);
    reap(process);
    if (process->pid > 0)
        return 0;
    lua_pushinteger(L, WIFSIGNALED(process->status) ? 128 + WTERMSIG(process->status) : WEXITSTATUS(process->status));
    return 1;
}

static void *wait_for_end(void *user)
{
    pid_t pid = (pid_t)(intptr_t)user;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    return NULL;
}

/* process:close() closes its stdin, by which our programs know that they are to end. Somebody has to reap it then: a
   thread that does nothing else, since nobody may wait here. */
static int process_close(lua_State *L)
{
    struct osb_process *process = check_process(L);
    bool foreign = process->source.loop && osb_loop_is_foreign(process->source.loop);
    close_fd(&process->stdin_fd);
    if (foreign)
        return 0;
    osb_loop_remove(&process->source);
    close_fd(&process->stdout_fd);
    osb_buf_free(&process->output);
    process->ended = true;
    reap(process);
    if (process->pid > 0) {
        pthread_t thread;
        sigset_t all, old;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        if (pthread_create(&thread, NULL, wait_for_end, (void *)(intptr_t)process->pid) == 0)
            pthread_detach(thread);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        process->pid = 0;
    }
    return 0;
}

static const luaL_Reg methods[] = {
    {"id", process_id},       {"pid", process_pid},
    {"ready", process_ready}, {"read_line", process_read_line},
    {"kill", process_kill},   {"exit_code", process_exit_code},
    {"close", process_close}, {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", process_close}, {NULL, NULL}};

void osb_process_open(lua_State *L)
{
    osb_object_define(L, "process", methods, meta);
    lua_pushcfunction(L, process_new);
    lua_setfield(L, -2, "process");
}
