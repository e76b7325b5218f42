#include "runtime/runtime/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/runtime/log.h"
#include "runtime/runtime/record.h"
#include "runtime/runtime/snapshot.h"
#include "runtime/shared/text.h"

#define START_PATIENCE 30000 /* ms */
#define OUTPUT_LOGGED ((size_t)64 << 10)
#define LONGEST_TIMER 86400000LL /* ms; later expiries are looked at again */

const char *osb_sandbox_state_name(const struct osb_sandbox *sandbox)
{
    static const char *const names[] = {"Pending", "Running", "Paused", "Terminated", "Failed"};
    return names[sandbox->state];
}

struct osb_sandbox *osb_sandbox_find(const struct osb_runtime *runtime, const char *id)
{
    struct osb_sandbox *sandbox = runtime->sandboxes;
    while (sandbox && (sandbox->deleted || strcmp(sandbox->id, id) != 0))
        sandbox = sandbox->next;
    return sandbox;
}

static void change_state(struct osb_sandbox *sandbox, enum osb_sandbox_state state)
{
    sandbox->state = state;
    clock_gettime(CLOCK_REALTIME, &sandbox->changed_at);
    osb_log("sandbox %s: %s", sandbox->id, osb_sandbox_state_name(sandbox));
    osb_diary_event(&sandbox->diary, osb_sandbox_state_name(sandbox));
    osb_record_save(sandbox);
}

/* Takes it off the list of all. */
static void unlink_sandbox(struct osb_sandbox *sandbox)
{
    for (struct osb_sandbox **place = &sandbox->runtime->sandboxes; *place; place = &(*place)->next) {
        if (*place == sandbox) {
            *place = sandbox->next;
            sandbox->runtime->sandbox_count--;
            break;
        }
    }
}

/* ---- the processes ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void end_watch(struct osb_watch **watch, int *fd)
{
    osb_watch_remove(*watch);
    *watch = NULL;
    close_fd(fd);
}

/* Lets go of everything that is open towards the processes. */
static void close_process(struct osb_sandbox *sandbox)
{
    end_watch(&sandbox->monitor_watch, &sandbox->process.monitor_fd);
    end_watch(&sandbox->status_watch, &sandbox->process.status_fd);
    end_watch(&sandbox->ready_watch, &sandbox->process.ready_fd);
    end_watch(&sandbox->output_watch, &sandbox->process.output_fd);
    close_fd(&sandbox->process.life_fd);
    close_fd(&sandbox->process.gate_fd);
    close_fd(&sandbox->init_fd);
    osb_egress_close(sandbox->egress);
    sandbox->egress = NULL;
    osb_timer_stop(sandbox->runtime->loop, &sandbox->patience);
}

static void free_sandbox(struct osb_sandbox *sandbox)
{
    unlink_sandbox(sandbox);
    close_process(sandbox);
    osb_timer_stop(sandbox->runtime->loop, &sandbox->expiry);
    if (sandbox->restore)
        osb_copy_cancel(sandbox->restore);
    osb_policy_free(sandbox->policy);
    json_decref(sandbox->env);
    json_decref(sandbox->command);
    json_decref(sandbox->image);
    json_decref(sandbox->snapshot_id);
    json_decref(sandbox->platform);
    json_decref(sandbox->metadata);
    json_decref(sandbox->entrypoint);
    osb_volumes_close(&sandbox->volumes);
    osb_diary_free(&sandbox->diary);
    explicit_bzero(sandbox->token, sizeof sandbox->token);
    explicit_bzero(sandbox->egress_token, sizeof sandbox->egress_token);
    free(sandbox);
}

static bool uses_volume(const struct osb_sandbox *sandbox, const char *claim)
{
    for (size_t i = 0; i < sandbox->volumes.count; i++) {
        const char *other = sandbox->volumes.list[i].claim;
        if (other && strcmp(other, claim) == 0)
            return true;
    }
    return false;
}

/* Forgets it on disk, and removes the named volumes that were to end with it, but for those that another one uses. */
static void forget(const struct osb_sandbox *sandbox)
{
    osb_record_remove(sandbox);
    const struct osb_runtime *runtime = sandbox->runtime;
    for (size_t i = 0; i < sandbox->volumes.count; i++) {
        const struct osb_volume *volume = &sandbox->volumes.list[i];
        char removable[OSB_ID_SIZE];
        bool used = !volume->ends;
        for (const struct osb_sandbox *other = runtime->sandboxes; other && !used; other = other->next)
            used = other != sandbox && uses_volume(other, volume->claim);
        if (!used && osb_state_discard(&runtime->state, "volumes", volume->claim, removable, sizeof removable))
            (void)osb_janitor_remove(&runtime->janitor, removable);
    }
}

/* Kills all processes; the monitor ends once they are gone. */
static void kill_processes(struct osb_sandbox *sandbox)
{
    close_fd(&sandbox->process.life_fd);
    if (sandbox->init_fd >= 0)
        (void)syscall(SYS_pidfd_send_signal, sandbox->init_fd, SIGKILL, NULL, 0);
    else if (sandbox->process.monitor_fd >= 0) /* its child dies with it, or finds the life pipe closed */
        (void)syscall(SYS_pidfd_send_signal, sandbox->process.monitor_fd, SIGKILL, NULL, 0);
}

static void read_output(void *context, uint32_t events);

/* All processes are gone: tells who waits, and frees the sandbox unless its end is to be seen. */
static void finish(struct osb_sandbox *sandbox, int exit_code)
{
    if (sandbox->output_watch)
        read_output(sandbox, EPOLLIN);
    close_process(sandbox);
    sandbox->exit_code = exit_code;
    if (!osb_janitor_remove(&sandbox->runtime->janitor, sandbox->id))
        osb_log("the janitor does not listen");
    if (sandbox->started) {
        char error[sizeof sandbox->output + 64];
        sandbox->output[strcspn(sandbox->output, "\n")] = '\0';
        snprintf(error, sizeof error, "The sandbox could not be started: %s",
                 *sandbox->output ? sandbox->output : "execd ended at once");
        sandbox->started(sandbox->started_context, NULL, error);
        sandbox->deleted = true;
    }
    if (!sandbox->deleted) {
        change_state(sandbox, exit_code == 0 ? OSB_TERMINATED : OSB_FAILED);
        return;
    }
    osb_log("sandbox %s: deleted", sandbox->id);
    forget(sandbox);
    if (sandbox->gone)
        sandbox->gone(sandbox->gone_context);
    free_sandbox(sandbox);
}

static void on_monitor_end(void *context, uint32_t events)
{
    struct osb_sandbox *sandbox = context;
    int status = 0;
    (void)events;
    if (waitpid(sandbox->process.monitor, &status, WNOHANG) != sandbox->process.monitor)
        return;
    sandbox->process.monitor = -1;
    finish(sandbox, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* The sandbox runs once execd has read its token and its first process is known. */
static void check_ready(struct osb_sandbox *sandbox)
{
    if (sandbox->state != OSB_PENDING || !sandbox->ready || sandbox->init_fd < 0 || !sandbox->started)
        return;
    osb_timer_stop(sandbox->runtime->loop, &sandbox->patience);
    osb_sandbox_started started = sandbox->started;
    sandbox->started = NULL;
    change_state(sandbox, OSB_RUNNING);
    started(sandbox->started_context, sandbox, NULL);
}

/* Has the proxy listen inside, where nothing runs yet, and lets the sandbox go on. False when it can't be. */
static bool open_gate(struct osb_sandbox *sandbox)
{
    if (sandbox->network == OSB_NETWORK_PROXY) {
        int fd = osb_network_listen_inside(sandbox->init_fd, OSB_EGRESS_PORT);
        if (fd >= 0) {
            sandbox->egress = osb_egress_new(sandbox->runtime->egress, fd, sandbox->policy);
            sandbox->policy = NULL;
        }
        if (!sandbox->egress) {
            sandbox->output_len = (size_t)snprintf(sandbox->output, sizeof sandbox->output,
                                                   "its proxy can't listen inside: %s", strerror(errno));
            return false;
        }
    }
    close_fd(&sandbox->process.gate_fd);
    return true;
}

/* Learns the first process from bubblewrap's status, a line of JSON that comes in pieces. */
static void on_status(void *context, uint32_t events)
{
    struct osb_sandbox *sandbox = context;
    const size_t room = sizeof sandbox->status - sandbox->status_len;
    ssize_t len = room ? read(sandbox->process.status_fd, sandbox->status + sandbox->status_len, room) : 0;
    (void)events;
    if (len < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (len > 0) {
        sandbox->status_len += (size_t)len;
        if (!memchr(sandbox->status, '\n', sandbox->status_len))
            return;
    }
    osb_watch_remove(sandbox->status_watch); /* the descriptor stays open: bubblewrap writes its last word there */
    sandbox->status_watch = NULL;
    json_t *status = json_loadb(sandbox->status, sandbox->status_len, JSON_DISABLE_EOF_CHECK, NULL);
    sandbox->init = (pid_t)json_integer_value(json_object_get(status, "child-pid"));
    json_decref(status);
    if (sandbox->init <= 0)
        return; /* the monitor's end will tell */
    sandbox->init_fd = (int)syscall(SYS_pidfd_open, sandbox->init, 0);
    if (sandbox->init_fd < 0 ||
        !osb_janitor_add(&sandbox->runtime->janitor, sandbox->id, OSB_JANITOR_PROCESS, sandbox->init_fd) ||
        sandbox->deleted || !open_gate(sandbox)) {
        kill_processes(sandbox);
        return;
    }
    check_ready(sandbox);
}

/* execd has read its token, or was never started. */
static void on_ready(void *context, uint32_t events)
{
    struct osb_sandbox *sandbox = context;
    char byte;
    ssize_t len = read(sandbox->process.ready_fd, &byte, 1);
    (void)events;
    if (len > 0 || (len < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    end_watch(&sandbox->ready_watch, &sandbox->process.ready_fd);
    sandbox->ready = len == 0;
    check_ready(sandbox);
}

/* What execd and the entrypoint print goes to the diary, and its beginning to the log; the first words are kept for the
 * error of create. */
static void read_output(void *context, uint32_t events)
{
    struct osb_sandbox *sandbox = context;
    char text[768]; /* fits into a line of the log */
    (void)events;
    ssize_t len = read(sandbox->process.output_fd, text, sizeof text);
    if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR)) {
        end_watch(&sandbox->output_watch, &sandbox->process.output_fd);
        return;
    }
    if (len > 0 && sandbox->logged < OUTPUT_LOGGED) {
        sandbox->logged += (size_t)len;
        osb_log("sandbox %s says: %.*s", sandbox->id, (int)len, text);
    }
    if (len > 0)
        osb_diary_log(&sandbox->diary, text, (size_t)len);
    size_t room = sizeof sandbox->output - 1 - sandbox->output_len;
    if (len <= 0 || sandbox->state != OSB_PENDING || room == 0)
        return;
    size_t taken = (size_t)len < room ? (size_t)len : room;
    memcpy(sandbox->output + sandbox->output_len, text, taken);
    sandbox->output_len += taken;
    sandbox->output[sandbox->output_len] = '\0';
}

static void on_patience_end(void *context)
{
    struct osb_sandbox *sandbox = context;
    if (sandbox->output_len == 0)
        sandbox->output_len = (size_t)snprintf(sandbox->output, sizeof sandbox->output, "execd did not begin in %d s",
                                               START_PATIENCE / 1000);
    kill_processes(sandbox);
}

static bool watch_process(struct osb_sandbox *sandbox)
{
    struct osb_evloop *loop = sandbox->runtime->loop;
    const struct osb_isolated *process = &sandbox->process;
    sandbox->monitor_watch = osb_evloop_watch(loop, process->monitor_fd, EPOLLIN, on_monitor_end, sandbox);
    sandbox->status_watch = osb_evloop_watch(loop, process->status_fd, EPOLLIN, on_status, sandbox);
    sandbox->ready_watch = osb_evloop_watch(loop, process->ready_fd, EPOLLIN | EPOLLRDHUP, on_ready, sandbox);
    sandbox->output_watch = osb_evloop_watch(loop, process->output_fd, EPOLLIN, read_output, sandbox);
    const struct osb_janitor *janitor = &sandbox->runtime->janitor;
    return sandbox->monitor_watch && sandbox->status_watch && sandbox->ready_watch && sandbox->output_watch &&
           osb_timer_start(loop, &sandbox->patience, START_PATIENCE, on_patience_end, sandbox) &&
           osb_janitor_add(janitor, sandbox->id, OSB_JANITOR_PROCESS, process->monitor_fd) &&
           osb_janitor_add(janitor, sandbox->id, OSB_JANITOR_PIPE, process->output_fd);
}

/* ---- create ---- */

void osb_sandbox_make_id(char out[OSB_ID_SIZE])
{
    char hex[33];
    osb_random_hex(hex, 32);
    hex[12] = '4';
    hex[16] = "89ab"[(unsigned char)hex[16] % 4];
    snprintf(out, OSB_ID_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

/* One without processes, at the head of the list. */
static struct osb_sandbox *add_sandbox(struct osb_runtime *runtime)
{
    struct osb_sandbox *sandbox = calloc(1, sizeof *sandbox);
    if (!sandbox)
        return NULL;
    sandbox->runtime = runtime;
    sandbox->init_fd = -1;
    sandbox->process = osb_isolated_none;
    sandbox->next = runtime->sandboxes;
    runtime->sandboxes = sandbox;
    runtime->sandbox_count++;
    return sandbox;
}

struct osb_sandbox *osb_sandbox_remember(struct osb_runtime *runtime, const char *id, json_t *metadata)
{
    struct osb_sandbox *sandbox = add_sandbox(runtime);
    if (!sandbox)
        return NULL;
    snprintf(sandbox->id, sizeof sandbox->id, "%s", id);
    sandbox->metadata = json_incref(metadata);
    return sandbox;
}

static struct osb_sandbox *new_sandbox(struct osb_runtime *runtime, const struct osb_sandbox_spec *spec)
{
    struct osb_sandbox *sandbox = add_sandbox(runtime);
    struct osb_volumes volumes = spec->volumes;
    if (!sandbox) {
        osb_volumes_close(&volumes);
        return NULL;
    }
    sandbox->volumes = volumes;
    osb_sandbox_make_id(sandbox->id);
    osb_random_hex(sandbox->token, sizeof sandbox->token - 1);
    osb_random_hex(sandbox->egress_token, sizeof sandbox->egress_token - 1);
    clock_gettime(CLOCK_REALTIME, &sandbox->created_at);
    sandbox->changed_at = sandbox->created_at;
    sandbox->renew_seconds = spec->renew_seconds;
    sandbox->limits = spec->limits;
    sandbox->network = spec->network;
    sandbox->image = json_incref(spec->image);
    sandbox->platform = json_incref(spec->platform);
    sandbox->entrypoint = json_incref(spec->entrypoint);
    sandbox->env = json_incref(spec->env);
    sandbox->command = json_incref(spec->command);
    sandbox->metadata = spec->metadata ? json_deep_copy(spec->metadata) : json_object();
    if (spec->snapshot)
        sandbox->snapshot_id = json_string(spec->snapshot->id);
    struct osb_policy_error error;
    sandbox->policy = spec->policy ? osb_policy_parse(spec->policy, &error) : osb_policy_new(true);
    if (!sandbox->metadata || !sandbox->policy || (spec->snapshot && !sandbox->snapshot_id)) {
        free_sandbox(sandbox);
        return NULL;
    }
    return sandbox;
}

static bool start_processes(struct osb_sandbox *sandbox, char *error, size_t size)
{
    struct osb_runtime *runtime = sandbox->runtime;
    struct osb_listener listener;
    if (!osb_network_listen(&listener)) {
        snprintf(error, size, "No loopback address is left: %s.", strerror(errno));
        return false;
    }
    memcpy(sandbox->address, listener.address, sizeof sandbox->address);
    sandbox->own_address = listener.own_address;
    const struct osb_isolation isolation = {
        .state = &runtime->state,
        .bwrap = runtime->bwrap,
        .id = sandbox->id,
        .token = sandbox->token,
        .env = sandbox->env,
        .command = sandbox->command,
        .host_network = sandbox->network == OSB_NETWORK_HOST,
        .proxy = sandbox->network == OSB_NETWORK_PROXY,
        .listen_fd = listener.fd,
        .volumes = &sandbox->volumes,
        .limits = &sandbox->limits,
        .cgroups = &runtime->cgroups,
    };
    char reason[512];
    if (!osb_volumes_make_targets(&sandbox->volumes, &runtime->state, sandbox->id, &sandbox->identity, error, size)) {
        close(listener.fd);
        return false;
    }
    bool started = osb_isolation_start(&isolation, &sandbox->identity, &sandbox->process, reason, sizeof reason);
    close(listener.fd); /* execd alone holds it from now on */
    osb_volumes_release(&sandbox->volumes);
    if (!started)
        snprintf(error, size, "The sandbox could not be started: %s.", reason);
    return started;
}

/* Gives a sandbox up that has no processes. */
static void give_up(struct osb_sandbox *sandbox, const char *error)
{
    osb_log("%s", error);
    (void)osb_janitor_remove(&sandbox->runtime->janitor, sandbox->id);
    forget(sandbox);
    sandbox->started(sandbox->started_context, NULL, error);
    free_sandbox(sandbox);
}

static void start(struct osb_sandbox *sandbox)
{
    char error[768] = "Memory is out.";
    if (!start_processes(sandbox, error, sizeof error)) {
        give_up(sandbox, error);
        return;
    }
    json_decref(sandbox->env);
    json_decref(sandbox->command);
    sandbox->env = NULL;
    sandbox->command = NULL;
    if (!watch_process(sandbox)) { /* the watch of the monitor may be what is missing, so wait here */
        kill_processes(sandbox);
        (void)waitpid(sandbox->process.monitor, NULL, 0);
        finish(sandbox, 1);
    }
}

static void on_restored(void *context, const char *problem)
{
    struct osb_sandbox *sandbox = context;
    char error[768];
    sandbox->restore = NULL;
    if (!problem) {
        start(sandbox);
        return;
    }
    snprintf(error, sizeof error, "The snapshot could not be copied: %s.", problem);
    give_up(sandbox, error);
}

/* Begins to copy the snapshot into the sandbox's directory. */
static bool start_restore(struct osb_sandbox *sandbox, const struct osb_snapshot *snapshot)
{
    int from = osb_snapshot_open(snapshot);
    int to = from < 0 ? -1 : openat(sandbox->runtime->state.dir, sandbox->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct osb_copy_spec spec = {
        .from = from, .to = to, .names = osb_state_private_dirs, .owner = &sandbox->identity};
    if (to >= 0)
        sandbox->restore = osb_copy_start(sandbox->runtime->loop, &spec, on_restored, sandbox);
    int code = errno;
    close_fd(&from);
    close_fd(&to);
    errno = code;
    return sandbox->restore != NULL;
}

void osb_sandbox_create(struct osb_runtime *runtime, const struct osb_sandbox_spec *spec, osb_sandbox_started started,
                        void *context)
{
    char error[768];
    struct osb_sandbox *sandbox = new_sandbox(runtime, spec);
    if (!sandbox) {
        started(context, NULL, "Memory is out.");
        return;
    }
    sandbox->started = started;
    sandbox->started_context = context;
    struct timespec expiry = sandbox->created_at;
    expiry.tv_sec += (time_t)spec->timeout;
    if (!osb_identity_pick(&sandbox->identity, error, sizeof error)) {
        give_up(sandbox, error);
    } else if (!osb_state_make_sandbox(&runtime->state, sandbox->id, &sandbox->identity, spec->snapshot != NULL) ||
               (spec->timeout > 0 && !osb_sandbox_set_expiry(sandbox, &expiry)) ||
               (spec->snapshot && !start_restore(sandbox, spec->snapshot))) {
        snprintf(error, sizeof error, "The sandbox's directories can't be made: %s.", strerror(errno));
        give_up(sandbox, error);
    } else if (!spec->snapshot) {
        start(sandbox);
    }
}

/* ---- the rest of its life ---- */

void osb_sandbox_delete(struct osb_sandbox *sandbox, osb_sandbox_gone gone, void *context)
{
    sandbox->deleted = true;
    osb_timer_stop(sandbox->runtime->loop, &sandbox->expiry);
    if (sandbox->process.monitor < 0) {
        if (sandbox->started) { /* a snapshot is being copied into it */
            sandbox->started(sandbox->started_context, NULL, "The sandbox was deleted.");
            (void)osb_janitor_remove(&sandbox->runtime->janitor, sandbox->id);
        }
        forget(sandbox);
        free_sandbox(sandbox);
        if (gone)
            gone(context);
        return;
    }
    sandbox->gone = gone;
    sandbox->gone_context = context;
    kill_processes(sandbox);
}

bool osb_sandbox_pause(struct osb_sandbox *sandbox)
{
    if (sandbox->holds == 0 && !osb_isolation_signal(sandbox->init, sandbox->init_fd, SIGSTOP))
        return false;
    change_state(sandbox, OSB_PAUSED);
    return true;
}

bool osb_sandbox_resume(struct osb_sandbox *sandbox)
{
    if (sandbox->holds == 0 && !osb_isolation_signal(sandbox->init, sandbox->init_fd, SIGCONT))
        return false;
    change_state(sandbox, OSB_RUNNING);
    return true;
}

bool osb_sandbox_hold(struct osb_sandbox *sandbox)
{
    if (sandbox->holds == 0 && !osb_isolation_signal(sandbox->init, sandbox->init_fd, SIGSTOP))
        return false;
    sandbox->holds++;
    return true;
}

void osb_sandbox_release(struct osb_sandbox *sandbox)
{
    if (--sandbox->holds == 0 && sandbox->state == OSB_RUNNING &&
        !osb_isolation_signal(sandbox->init, sandbox->init_fd, SIGCONT))
        osb_log("sandbox %s: its processes could not be resumed", sandbox->id);
}

void osb_sandbox_touch(struct osb_sandbox *sandbox)
{
    struct timespec expiry;
    clock_gettime(CLOCK_REALTIME, &expiry);
    expiry.tv_sec += (time_t)sandbox->renew_seconds;
    if (sandbox->renew_seconds > 0 && sandbox->expires && expiry.tv_sec > sandbox->expires_at.tv_sec)
        (void)osb_sandbox_set_expiry(sandbox, &expiry);
}

static void on_expiry(void *context)
{
    struct osb_sandbox *sandbox = context;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec < sandbox->expires_at.tv_sec ||
        (now.tv_sec == sandbox->expires_at.tv_sec && now.tv_nsec < sandbox->expires_at.tv_nsec)) {
        if (osb_sandbox_set_expiry(sandbox, &sandbox->expires_at))
            return;
    }
    osb_log("sandbox %s: expired", sandbox->id);
    osb_sandbox_delete(sandbox, NULL, NULL);
}

bool osb_sandbox_set_expiry(struct osb_sandbox *sandbox, const struct timespec *time)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t delay = LONGEST_TIMER;
    if (time->tv_sec - now.tv_sec < LONGEST_TIMER / 1000)
        delay = (int64_t)(time->tv_sec - now.tv_sec) * 1000 + (time->tv_nsec - now.tv_nsec) / 1000000 + 1;
    sandbox->expires_at = *time;
    sandbox->expires = true;
    if (sandbox->state != OSB_PENDING)
        osb_record_save(sandbox);
    return osb_timer_start(sandbox->runtime->loop, &sandbox->expiry, delay, on_expiry, sandbox);
}

void osb_sandbox_forget_all(struct osb_runtime *runtime)
{
    while (runtime->sandboxes)
        free_sandbox(runtime->sandboxes); /* NOLINT(clang-analyzer-unix.Malloc): it leaves the list */
}
