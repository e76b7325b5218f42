/* POST /command and what belongs to it: interrupt, status, logs. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "environment.h"
#include "event.h"
#include "execd.h"
#include "input.h"
#include "owner.h"
#include "record.h"
#include "run.h"

#define MAX_RUNNING 4096
#define MAX_GROUPS 256
#define TERM_GRACE 3000 /* ms between SIGTERM and SIGKILL of an interrupt */
#define KILL_GRACE 150  /* ms that the end after SIGKILL is waited for */
#define PROBE_INTERVAL 10

struct command {
    const char *text, *cwd;
    bool has_nul, background, has_uid, has_gid;
    int64_t timeout, uid, gid;
    const json_t *envs;
};

/* ---- the request ---- */

static bool read_id(const json_t *input, const char *name, bool *given, int64_t *id, char error[OSB_INPUT_ERROR_SIZE])
{
    const json_t *field = json_object_get(input, name);
    *given = field && !json_is_null(field);
    if (!osb_input_integer(input, name, id, error))
        return false;
    if (*id < 0 || *id >= UINT32_MAX) {
        snprintf(error, OSB_INPUT_ERROR_SIZE, "json: cannot unmarshal number %lld into field %s of type uint32",
                 (long long)*id, name);
        return false;
    }
    return true;
}

static bool read_envs(const json_t *input, const json_t **envs, char error[OSB_INPUT_ERROR_SIZE])
{
    json_t *field = json_object_get(input, "envs");
    *envs = NULL;
    if (!field || json_is_null(field))
        return true;
    if (!json_is_object(field)) {
        snprintf(error, OSB_INPUT_ERROR_SIZE, "json: cannot unmarshal %s into field envs of type map[string]string",
                 osb_input_type_name(field));
        return false;
    }
    const char *name, *value;
    json_t *entry;
    json_object_foreach(field, name, entry)
    {
        if (!osb_input_string(field, name, &value, error))
            return false;
        if (json_is_null(entry))
            json_object_set_new(field, name, json_string(""));
    }
    *envs = field;
    return true;
}

/* Fills `command` from the body; answers the request and returns false when it isn't valid. */
static bool read_command(struct osb_http_request *request, const json_t *input, struct command *command)
{
    char error[OSB_INPUT_ERROR_SIZE], reason[OSB_PATH_ERROR_SIZE];
    const json_t *text = json_object_get(input, "command");
    /* one with a NUL character fails when it is to be started */
    command->has_nul = json_is_string(text) && strlen(json_string_value(text)) != json_string_length(text);
    command->text = command->has_nul ? json_string_value(text) : "";
    if ((!command->has_nul && !osb_input_string(input, "command", &command->text, error)) ||
        !osb_input_string(input, "cwd", &command->cwd, error) ||
        !osb_input_boolean(input, "background", &command->background, error) ||
        !osb_input_integer(input, "timeout", &command->timeout, error) ||
        !read_id(input, "uid", &command->has_uid, &command->uid, error) ||
        !read_id(input, "gid", &command->has_gid, &command->gid, error) || !read_envs(input, &command->envs, error)) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error);
        return false;
    }
    const char *wrong = NULL;
    if (!*command->text && !command->has_nul)
        wrong = "Key: 'RunCommandRequest.Command' Error:Field validation for 'Command' failed on the 'required' tag";
    else if (command->timeout < 0)
        wrong = "Key: 'RunCommandRequest.TimeoutMs' Error:Field validation for 'TimeoutMs' failed on the 'gte' tag";
    else if (command->has_gid && !command->has_uid)
        wrong = "uid is required when gid is provided";
    else
        wrong = osb_path_check_directory(command->cwd, reason);
    if (wrong) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "invalid request, validation error %s", wrong);
        return false;
    }
    return true;
}

/* Sets the ids of the process; false when this place has only one. */
static bool choose_ids(const struct command *command, struct osb_child_spec *spec, gid_t *groups)
{
    if (!command->has_uid ||
        (command->uid == (int64_t)getuid() && (!command->has_gid || command->gid == (int64_t)getgid())))
        return true;
    if (osb_owner_is_single())
        return false;
    spec->set_ids = true;
    spec->uid = (uid_t)command->uid;
    spec->gid = 0;
    spec->groups = groups;
    spec->group_count = MAX_GROUPS;
    osb_owner_groups(spec->uid, &spec->gid, groups, &spec->group_count);
    if (command->has_gid)
        spec->gid = (gid_t)command->gid;
    return true;
}

/* ---- running ---- */

static void foreground_ended(void *context, int status, bool timed_out, int64_t elapsed, struct osb_buf *out)
{
    struct osb_record *record = context;
    char value[16];
    (void)timed_out;
    osb_record_finish(record, status);
    snprintf(value, sizeof value, "%d", record->exit_code);
    if (status == 0)
        osb_event_complete(out, elapsed);
    else
        osb_event_error(out, value, record->error);
}

/* Answers with init and an error event: the command could not be started. */
static void reply_not_started(struct osb_http_request *request, struct osb_record *record, const char *error)
{
    struct osb_buf events = {0};
    osb_record_fail(record, error);
    if (osb_event_text(&events, "init", record->id, strlen(record->id), osb_event_time()) && osb_event_ping(&events) &&
        osb_event_error(&events, error, error))
        osb_run_reply_events(request, &events);
    else
        osb_http_reply_drop(request);
    osb_buf_free(&events);
}

static void background_timeout(void *context)
{
    const struct osb_record *record = context;
    kill(-record->pid, SIGKILL);
}

static void background_ended(void *context, int status)
{
    struct osb_record *record = context;
    osb_timer_stop(record->loop, &record->timeout);
    osb_record_finish(record, status);
}

static void run_background(struct osb_execd *execd, struct osb_http_request *request, const struct command *command,
                           struct osb_child_spec *spec, struct osb_record *record)
{
    char error[OSB_CHILD_ERROR_SIZE];
    struct osb_buf events = {0};
    int log = osb_record_open_log(execd->records, record);
    if (log < 0) {
        int reason = errno;
        osb_record_drop(execd->records, record);
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR,
                             "error running commands failed to get combined output descriptor: %s", strerror(reason));
        return;
    }
    record->loop = execd->loop;
    spec->output = log;
    spec->error = log;
    pid_t pid = osb_child_start(execd->children, spec, background_ended, record, error);
    close(log);
    if (pid < 0) {
        reply_not_started(request, record, error);
        return;
    }
    record->pid = pid;
    if (command->timeout > 0 &&
        !osb_timer_start(execd->loop, &record->timeout, command->timeout, background_timeout, record))
        background_timeout(record);
    if (osb_event_text(&events, "init", record->id, strlen(record->id), osb_event_time()) && osb_event_ping(&events) &&
        osb_event_complete(&events, 0))
        osb_run_reply_events(request, &events);
    else
        osb_http_reply_drop(request);
    osb_buf_free(&events);
}

static void run_foreground(struct osb_execd *execd, struct osb_http_request *request, const struct command *command,
                           const struct osb_child_spec *spec, struct osb_record *record)
{
    char error[OSB_CHILD_ERROR_SIZE];
    const struct osb_run_options options = {
        .spec = *spec, .id = record->id, .timeout = command->timeout, .ended = foreground_ended, .context = record};
    if (!osb_run_start(execd, request, &options, &record->pid, error))
        reply_not_started(request, record, error);
}

/* Starts a valid command and answers the request. */
static void start_command(struct osb_execd *execd, struct osb_http_request *request, const struct command *command)
{
    char error[OSB_PATH_ERROR_SIZE];
    gid_t groups[MAX_GROUPS];
    char *cwd = NULL, *shell = NULL, **environment = NULL;
    struct osb_record *record = NULL;
    struct osb_child_spec spec = {0};
    if (!choose_ids(command, &spec, groups)) {
        osb_http_reply_error(
            request, 501, OSB_NOT_SUPPORTED,
            "commands can only run as uid %lu here: the sandbox has a single user id (no subordinate ids on this host)",
            (unsigned long)getuid());
        return;
    }
    cwd = osb_path_expand(command->cwd, command->envs, error);
    if (!cwd) {
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error running commands resolve request cwd %s: %s",
                             command->cwd, error);
        return;
    }
    if (osb_child_count(execd->children) >= MAX_RUNNING) {
        osb_http_reply_error(request, 503, OSB_RUNTIME_ERROR, "error running commands: %d are running already",
                             MAX_RUNNING);
        goto done;
    }
    shell = osb_environment_find_program("bash");
    const char *name = shell ? "bash" : "sh";
    if (!shell)
        shell = osb_environment_find_program("sh");
    environment = osb_environment_merge(command->envs);
    record = osb_record_new(execd->records, command->text);
    if (!environment || !record) {
        osb_http_reply_error(request, 503, OSB_RUNTIME_ERROR,
                             "error running commands: too many of them, or out of memory");
        goto done;
    }
    const char *argv[] = {name, "-c", command->text, NULL};
    spec.program = shell ? shell : "/bin/sh";
    spec.argv = argv;
    spec.environment = environment;
    spec.cwd = *cwd ? cwd : NULL;
    if (command->has_nul) {
        snprintf(error, sizeof error, "fork/exec %.400s: invalid argument", spec.program);
        reply_not_started(request, record, error);
    } else if (command->background)
        run_background(execd, request, command, &spec, record);
    else
        run_foreground(execd, request, command, &spec, record);
done:
    osb_environment_release(environment);
    free(shell);
    free(cwd);
}

void osb_command_run(struct osb_http_request *request, void *context)
{
    char error[OSB_INPUT_ERROR_SIZE];
    struct command command = {0};
    json_t *input = osb_input_object(request, error);
    if (!input)
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error);
    else if (read_command(request, input, &command))
        start_command(context, request, &command);
    json_decref(input);
}

void osb_command_run_text(struct osb_execd *execd, struct osb_http_request *request, const char *text)
{
    const struct command command = {.text = text, .cwd = ""};
    start_command(execd, request, &command);
}

/* ---- interrupt ---- */

struct interrupt {
    struct osb_execd *execd;
    struct osb_http_request *request;
    pid_t group;
    int64_t give_up; /* when the next step is taken, ms */
    bool killed;
    struct osb_timer timer;
};

/* Answers once the group is gone; sends SIGKILL when it does not go by itself. */
static void interrupt_probe(void *context)
{
    struct interrupt *interrupt = context;
    bool gone = kill(-interrupt->group, 0) < 0 && errno == ESRCH;
    if (!gone && osb_evloop_now() >= interrupt->give_up) {
        gone = interrupt->killed || (kill(-interrupt->group, SIGKILL) < 0 && errno == ESRCH);
        interrupt->killed = true;
        interrupt->give_up = osb_evloop_now() + KILL_GRACE;
    }
    if (!gone && osb_timer_start(interrupt->execd->loop, &interrupt->timer, PROBE_INTERVAL, interrupt_probe, interrupt))
        return;
    osb_http_reply_empty(interrupt->request, 200);
    free(interrupt);
}

void osb_command_interrupt(struct osb_http_request *request, void *context)
{
    struct osb_execd *execd = context;
    const char *id = osb_http_request_query(request, "id");
    if (!id || !*id) {
        osb_http_reply_error(request, 400, OSB_MISSING_QUERY, "missing query parameter 'id'");
        return;
    }
    struct osb_record *record = osb_record_find(execd->records, id);
    if (!record && (osb_code_interrupt(execd, id) || osb_session_close(execd, id))) {
        osb_http_reply_empty(request, 200);
        return;
    }
    if (!record || !record->running) {
        if (record)
            osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR,
                                 "error interruptting code context. command session %s is not running", id);
        else
            osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error interruptting code context. no such session");
        return;
    }
    struct interrupt *interrupt = calloc(1, sizeof *interrupt);
    if (!interrupt) {
        kill(-record->pid, SIGKILL);
        osb_http_reply_empty(request, 200);
        return;
    }
    *interrupt = (struct interrupt){
        .execd = execd, .request = request, .group = record->pid, .give_up = osb_evloop_now() + TERM_GRACE};
    kill(-record->pid, SIGTERM);
    interrupt_probe(interrupt);
}

/* ---- status and logs ---- */

void osb_command_status(struct osb_http_request *request, void *context)
{
    const struct osb_execd *execd = context;
    const char *id = osb_http_request_param(request, 0);
    const struct osb_record *record = osb_record_find(execd->records, id);
    if (record)
        osb_http_reply_json(request, 200, osb_record_status(record));
    else
        osb_http_reply_error(request, 404, OSB_INVALID_REQUEST, "command not found: %s", id);
}

void osb_command_logs(struct osb_http_request *request, void *context)
{
    const struct osb_execd *execd = context;
    const char *id = osb_http_request_param(request, 0), *given = osb_http_request_query(request, "cursor");
    const struct osb_record *record = osb_record_find(execd->records, id);
    if (!record || !record->log_path) {
        if (record)
            osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "command %s is not running in background", id);
        else
            osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "command not found: %s", id);
        return;
    }
    char *end = NULL;
    errno = 0;
    long long cursor = given ? strtoll(given, &end, 10) : 0;
    if (end == given || (end && *end) || errno)
        cursor = 0;
    struct stat info;
    int file = open(record->log_path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &info) < 0 || cursor < 0) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error open combined output file for command %s: %s",
                             id, strerror(cursor < 0 ? EINVAL : errno));
        if (file >= 0)
            close(file);
        return;
    }
    char text[24];
    bool more = info.st_size > cursor;
    snprintf(text, sizeof text, "%lld", more ? (long long)info.st_size : cursor);
    osb_http_reply_header(request, "EXECD-COMMANDS-TAIL-CURSOR", text);
    if (more) {
        osb_http_reply_header(request, "Content-Type", "text/plain; charset=utf-8");
        osb_http_reply_file(request, 200, file, (uint64_t)cursor, (uint64_t)(info.st_size - cursor));
    } else {
        close(file);
        osb_http_reply_text(request, 200, "");
    }
}
