/* Shell sessions: every run is a bash of its own that takes over the exported variables and the directory of the one
 * before. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "environment.h"
#include "event.h"
#include "execd.h"
#include "file_job.h"
#include "input.h"
#include "run.h"
#include "runtime/shared/text.h"

#define MAX_SESSIONS 1024
#define MAX_STATE ((size_t)4 << 20)             /* bytes of `export -p` that are taken over */
#define MAX_TIMEOUT ((int64_t)24 * 3600 * 1000) /* ms; also that of runs without one */

/*
 * What bash runs. It gets three unnamed files: 7 takes the state afterwards (the exported variables as commands, NUL,
 * the directory), 8 holds the commands that bring the state back, 9 the user's command. The command sees none of them.
 */
static const char wrapper[] = ". /proc/self/fd/8; "
                              "eval \"$(</proc/self/fd/9)\" 7>&- 8<&- 9<&-\n"
                              "set -- \"$?\"\n"
                              "{ builtin export -p; builtin printf '\\0%s' \"$(builtin pwd)\"; } >&7\n"
                              "exit \"$1\"\n";

struct osb_session {
    struct osb_execd *execd;
    char id[33];
    char *cwd;   /* NULL: that of execd */
    char *state; /* commands that set the variables; NULL before the first run */
    struct osb_run *run;
    pid_t group;
    int state_fd;    /* of the run under way */
    int64_t timeout; /* of it, as asked for */
    struct osb_session *next;
};

static struct osb_session **find_session(struct osb_execd *execd, const char *id)
{
    struct osb_session **slot = &execd->sessions;
    while (*slot && strcmp((*slot)->id, id) != 0)
        slot = &(*slot)->next;
    return slot;
}

static void session_free(struct osb_session *session)
{
    if (session->state_fd >= 0)
        close(session->state_fd);
    free(session->cwd);
    free(session->state);
    free(session);
}

/* ---- create and delete ---- */

void osb_session_create(struct osb_http_request *request, void *context)
{
    struct osb_execd *execd = context;
    char error[OSB_PATH_ERROR_SIZE];
    const char *cwd = "";
    json_t *input = osb_input_object(request, error);
    if ((!input && strcmp(error, "EOF") != 0) || (input && !osb_input_string(input, "cwd", &cwd, error))) {
        json_decref(input);
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request. %s", error);
        return;
    }
    struct osb_session *session = calloc(1, sizeof *session);
    const char *problem = NULL;
    if (!session) {
        problem = "out of memory";
    } else {
        session->execd = execd;
        session->state_fd = -1;
        session->cwd = osb_path_expand(cwd, NULL, error);
        if (execd->session_count >= MAX_SESSIONS)
            problem = "too many sessions";
        else if (!session->cwd)
            problem = error;
        else if (session->cwd[0] && osb_path_make_directories(session->cwd, 0777) < 0) {
            snprintf(error, sizeof error, "mkdir %.300s: %s", session->cwd, osb_file_reason(errno));
            problem = error;
        }
    }
    json_decref(input);
    if (problem) {
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error creating session. %s", problem);
        if (session)
            session_free(session);
        return;
    }
    osb_random_hex(session->id, 32);
    session->next = execd->sessions;
    execd->sessions = session;
    execd->session_count++;
    osb_http_reply_json(request, 200, json_pack("{s:s}", "session_id", session->id));
}

bool osb_session_close(struct osb_execd *execd, const char *id)
{
    struct osb_session **slot = find_session(execd, id), *session = *slot;
    if (!session)
        return false;
    *slot = session->next;
    execd->session_count--;
    if (session->run) {
        kill(-session->group, SIGKILL);
        session->next = NULL; /* freed when its run has ended */
        session->id[0] = '\0';
    } else {
        session_free(session);
    }
    return true;
}

void osb_session_close_all(struct osb_execd *execd)
{
    while (execd->sessions) {
        struct osb_session *session = execd->sessions;
        execd->sessions = session->next;
        session_free(session);
    }
    execd->session_count = 0;
}

void osb_session_delete(struct osb_http_request *request, void *context)
{
    const char *id = osb_http_request_param(request, 0);
    if (osb_session_close(context, id))
        osb_http_reply_empty(request, 200);
    else
        osb_http_reply_error(request, 404, OSB_CONTEXT_NOT_FOUND, "session %s not found", id);
}

/* ---- run ---- */

/* Takes over what the run left; nothing when it has left nothing whole (`exit`, a signal). */
static void take_state(struct osb_session *session)
{
    struct stat info;
    if (fstat(session->state_fd, &info) < 0 || info.st_size <= 0 || (size_t)info.st_size > MAX_STATE)
        return;
    size_t size = (size_t)info.st_size;
    char *state = malloc(size + 1);
    if (!state || pread(session->state_fd, state, size, 0) != info.st_size) {
        free(state);
        return;
    }
    state[size] = '\0';
    size_t variables = strlen(state);
    char *cwd = variables < size && state[variables + 1] ? strdup(state + variables + 1) : NULL;
    if (!cwd) {
        free(state);
        return;
    }
    free(session->cwd);
    free(session->state);
    session->cwd = cwd;
    session->state = state;
}

/* A duration as Go prints it: 1.5s, 200ms, 1m0s, 24h0m0s. */
static void format_duration(int64_t ms, char out[48])
{
    long long hours = ms / 3600000, minutes = ms / 60000 % 60;
    if (ms < 1000) {
        snprintf(out, 48, "%lldms", (long long)ms);
        return;
    }
    char seconds[16];
    int len = snprintf(seconds, sizeof seconds, "%lld.%03lld", (long long)(ms / 1000 % 60), (long long)(ms % 1000));
    while (seconds[len - 1] == '0')
        len--;
    if (seconds[len - 1] == '.')
        len--;
    seconds[len] = '\0';
    if (hours > 0)
        snprintf(out, 48, "%lldh%lldm%ss", hours, minutes, seconds);
    else if (minutes > 0)
        snprintf(out, 48, "%lldm%ss", minutes, seconds);
    else
        snprintf(out, 48, "%ss", seconds);
}

static void run_ended(void *context, int status, bool timed_out, int64_t elapsed, struct osb_buf *out)
{
    struct osb_session *session = context;
    char value[16], trace[64], duration[48];
    session->run = NULL;
    if (timed_out) {
        format_duration(session->timeout, duration);
        osb_buf_printf(out, "{\"code\":\"%s\",\"message\":\"error running in session. timeout after %s\"}",
                       OSB_RUNTIME_ERROR, duration);
    } else {
        take_state(session);
        snprintf(value, sizeof value, "%d", osb_child_exit_code(status));
        osb_child_describe(status, trace);
        if (status == 0)
            osb_event_complete(out, elapsed);
        else
            osb_event_error(out, value, trace);
    }
    close(session->state_fd);
    session->state_fd = -1;
    if (!session->id[0])
        session_free(session);
}

/* An unnamed file; -1 with errno. */
static int unnamed_file(const char *name, const char *text, size_t len)
{
    int file = memfd_create(name, MFD_CLOEXEC);
    while (file >= 0 && len > 0) {
        ssize_t written = write(file, text, len);
        if (written < 0) {
            close(file);
            return -1;
        }
        text += written;
        len -= (size_t)written;
    }
    return file;
}

/* The commands that bring back the variables and go to `cwd`; -1 when something is out. */
static int restore_file(const struct osb_session *session, const char *cwd)
{
    struct osb_buf text = {0};
    bool built = !session->state || (osb_buf_append_str(&text, session->state) && osb_buf_append_byte(&text, '\n'));
    if (*cwd) {
        built = built && osb_buf_append_str(&text, "builtin cd -- '");
        for (const char *at = cwd; *at && built; at++)
            built = *at == '\'' ? osb_buf_append_str(&text, "'\\''") : osb_buf_append_byte(&text, *at);
        built = built && osb_buf_append_str(&text, "'\n");
    }
    int file = built ? unnamed_file("restore", osb_buf_data(&text), text.len) : -1;
    osb_buf_free(&text);
    return file;
}

/* Starts the run; false with a sentence in `error` when it could not be started (the request is then not answered). */
static bool start_run(struct osb_session *session, struct osb_http_request *request, const char *command,
                      const char *cwd, char error[OSB_CHILD_ERROR_SIZE])
{
    static const char *const argv[] = {"bash", "--noprofile", "--norc", "-c", wrapper, "bash", NULL};
    char *const nothing[] = {NULL};
    char *shell = osb_environment_find_program("bash");
    char **environment = session->state ? NULL : osb_environment_merge(NULL);
    int files[3] = {unnamed_file("state", "", 0), restore_file(session, cwd),
                    unnamed_file("command", command, strlen(command))};
    if (!shell) {
        snprintf(error, OSB_CHILD_ERROR_SIZE, "start bash: exec: \"bash\": executable file not found in $PATH");
    } else if (files[0] < 0 || files[1] < 0 || files[2] < 0 || (!session->state && !environment)) {
        snprintf(error, OSB_CHILD_ERROR_SIZE, "create script file: %s", strerror(errno));
    } else {
        const struct osb_run_options options = {
            .spec = {.program = shell,
                     .argv = argv,
                     .environment = session->state ? nothing : environment,
                     .extra = files,
                     .extra_count = 3},
            .id = session->id,
            .timeout = session->timeout,
            .session = true,
            .ended = run_ended,
            .context = session,
        };
        session->run = osb_run_start(session->execd, request, &options, &session->group, error);
    }
    for (size_t i = session->run ? 1 : 0; i < 3; i++) {
        if (files[i] >= 0)
            close(files[i]);
    }
    if (session->run)
        session->state_fd = files[0];
    free(shell);
    osb_environment_release(environment);
    return session->run != NULL;
}

void osb_session_run(struct osb_http_request *request, void *context)
{
    struct osb_execd *execd = context;
    char error[OSB_CHILD_ERROR_SIZE], reason[OSB_PATH_ERROR_SIZE];
    const char *command, *cwd;
    int64_t timeout;
    json_t *input = osb_input_object(request, error);
    if (!input || !osb_input_string(input, "command", &command, error) ||
        !osb_input_string(input, "cwd", &cwd, error) || !osb_input_integer(input, "timeout", &timeout, error)) {
        json_decref(input);
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request. %s", error);
        return;
    }
    const char *wrong = NULL;
    if (!*command)
        wrong = "Key: 'RunInSessionRequest.Command' Error:Field validation for 'Command' failed on the 'required' tag";
    else if (timeout < 0)
        wrong = "Key: 'RunInSessionRequest.Timeout' Error:Field validation for 'Timeout' failed on the 'gte' tag";
    else
        wrong = osb_path_check_directory(cwd, reason);
    struct osb_session *session = *find_session(execd, osb_http_request_param(request, 0));
    if (wrong) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "invalid request. %s", wrong);
    } else if (!session) {
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error running in session. context not found");
    } else if (session->run) {
        osb_http_reply_error(request, 409, OSB_RUNTIME_ERROR, "error running in session. session is busy");
    } else {
        char *directory = *cwd ? osb_path_expand(cwd, NULL, reason) : strdup(session->cwd);
        session->timeout = timeout > 0 && timeout < MAX_TIMEOUT ? timeout : MAX_TIMEOUT;
        if (!directory || !start_run(session, request, command, directory, error))
            osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error running in session. %s",
                                 directory ? error : "out of memory");
        free(directory);
    }
    json_decref(input);
}
