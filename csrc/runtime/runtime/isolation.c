#include "runtime/runtime/isolation.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/runtime/args.h"
#include "runtime/runtime/egress.h"
#include "runtime/runtime/image.h"
#include "runtime/runtime/path.h"
#include "runtime/runtime/userns.h"

#define PROCESSES 1024 /* per uid inside */
#define OPEN_FILES 65536
#define SHM_SIZE "67108864" /* bytes */
#define RUN_SIZE "67108864"

#define TEXT(value) #value
#define PROXY_URL_AT(port) "http://127.0.0.1:" TEXT(port)
#define PROXY_URL PROXY_URL_AT(OSB_EGRESS_PORT)
#define NO_PROXY "localhost,127.0.0.1,::1"

/* Descriptors of the new process. */
enum { FD_ARGS = 3, FD_USERNS, FD_STATUS, FD_LISTEN, FD_TOKEN, FD_LIFE, FD_GATE, FD_END };

/* What commands find in their environment unless create says otherwise. pip and npm install into the home directory,
 * because /usr is read-only. */
static const char *const default_env[][2] = {
    {"PATH", "/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    {"HOME", "/root"},
    {"USER", "root"},
    {"LOGNAME", "root"},
    {"SHELL", "/bin/bash"},
    {"LANG", "C.UTF-8"},
    {"PIP_USER", "1"},
    {"PIP_BREAK_SYSTEM_PACKAGES", "1"},
    {"NPM_CONFIG_PREFIX", "/root/.local"},
};

/* And where there is the proxy. */
static const char *const proxy_env[][2] = {
    {"http_proxy", PROXY_URL}, {"https_proxy", PROXY_URL}, {"no_proxy", NO_PROXY},
    {"HTTP_PROXY", PROXY_URL}, {"HTTPS_PROXY", PROXY_URL}, {"NO_PROXY", NO_PROXY},
};

/* ---- bubblewrap's arguments ---- */

static bool add_namespaces(const struct osb_isolation *spec, struct osb_buf *args)
{
    static const char *const capabilities[] = {"CAP_CHOWN",  "CAP_DAC_OVERRIDE", "CAP_FOWNER",
                                               "CAP_SETUID", "CAP_SETGID",       "CAP_KILL"};
    bool fits =
        osb_args_add(args, "--userns", "4", "--json-status-fd", "5", "--block-fd", "9", "--uid", "0", "--gid", "0",
                     "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox",
                     "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", NULL);
    if (!spec->host_network)
        fits = fits && osb_args_add(args, "--unshare-net", NULL);
    for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++)
        fits = fits && osb_args_add(args, "--cap-add", capabilities[i], NULL);
    return fits;
}

/* The volumes' mounts in the directory of a sandbox of root. */
static void staging_path(const struct osb_isolation *spec, char *out, size_t size)
{
    snprintf(out, size, "%s/%s/" OSB_VOLUMES_STAGING, spec->state->path, spec->id);
}

static bool add_mounts(const struct osb_isolation *spec, const struct osb_identity *identity, struct osb_buf *args)
{
    bool fits = osb_image_mounts(spec->state, spec->host_network, args) &&
                osb_args_add(args, "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", SHM_SIZE, "--tmpfs",
                             "/dev/shm", "--remount-ro", "/dev", "--perms", "0755", "--size", RUN_SIZE, "--tmpfs",
                             "/run", "--perms", "1777", "--dir", "/run/lock", NULL);
    for (size_t i = 0; osb_state_private_dirs[i]; i++) {
        char source[PATH_MAX];
        char target[32];
        int used = snprintf(source, sizeof source, "%s/%s/%s", spec->state->path, spec->id, osb_state_private_dirs[i]);
        snprintf(target, sizeof target, "/%s", osb_state_private_dirs[i]);
        fits = fits && used > 0 && (size_t)used < sizeof source && osb_args_add(args, "--bind", source, target, NULL);
    }
    char staging[PATH_MAX + 64];
    staging_path(spec, staging, sizeof staging);
    fits = fits && osb_volumes_args(spec->volumes, identity->switches ? staging : NULL, FD_END, args);
    return fits && osb_args_add(args, "--remount-ro", "/", "--chdir", "/workspace", NULL);
}

/* Sets what create did not say anything about. */
static bool add_defaults(const struct osb_isolation *spec, const char *const pairs[][2], size_t count,
                         struct osb_buf *args)
{
    bool fits = true;
    for (size_t i = 0; i < count; i++) {
        if (!json_object_get(spec->env, pairs[i][0]))
            fits = fits && osb_args_add(args, "--setenv", pairs[i][0], pairs[i][1], NULL);
    }
    return fits;
}

static bool add_environment(const struct osb_isolation *spec, struct osb_buf *args)
{
    bool fits = add_defaults(spec, default_env, sizeof default_env / sizeof *default_env, args);
    if (spec->proxy)
        fits = fits && add_defaults(spec, proxy_env, sizeof proxy_env / sizeof *proxy_env, args);
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)spec->env, name, value)
    {
        if (json_is_string(value))
            fits = fits && osb_args_add(args, "--setenv", name, json_string_value(value), NULL);
    }
    return fits;
}

/* A descriptor with all arguments, at its beginning; -1 when memory is out. By descriptor, because a command line can
 * be read by everyone. */
static int make_args(const struct osb_isolation *spec, const struct osb_identity *identity)
{
    struct osb_buf args = {0};
    int fd = -1;
    if (add_namespaces(spec, &args) && add_mounts(spec, identity, &args) && add_environment(spec, &args))
        fd = memfd_create("args", MFD_CLOEXEC);
    if (fd >= 0 && (!osb_path_write_all(fd, osb_buf_data(&args), args.len) || lseek(fd, 0, SEEK_SET) != 0)) {
        close(fd);
        fd = -1;
    }
    osb_buf_free(&args);
    return fd;
}

/* The command line of bubblewrap; to be freed, not so its strings. NULL when memory is out. */
static char **make_argv(const struct osb_isolation *spec)
{
    static const char *const fixed[] = {"bwrap",      "--args", "3",         "--", OSB_IMAGE_EXECD, "--listen-fd", "6",
                                        "--token-fd", "7",      "--life-fd", "8"};
    const size_t count = sizeof fixed / sizeof *fixed;
    const size_t extra = spec->command ? 1 + json_array_size(spec->command) : 0;
    char **argv = calloc(count + extra + 1, sizeof *argv);
    if (!argv)
        return NULL;
    for (size_t i = 0; i < count; i++)
        argv[i] = (char *)fixed[i];
    if (extra)
        argv[count] = "--";
    for (size_t i = 1; i < extra; i++)
        argv[count + i] = (char *)json_string_value(json_array_get(spec->command, i - 1));
    return argv;
}

/* ---- the process ---- */

const struct osb_isolated osb_isolated_none = {
    .monitor = -1, .monitor_fd = -1, .status_fd = -1, .life_fd = -1, .ready_fd = -1, .gate_fd = -1, .output_fd = -1};

struct ends {
    int fd[FD_END]; /* what the new process gets as descriptor 3, 4, … */
    int output;
    int cgroups[OSB_CGROUPS]; /* where the new process enters its control groups */
};

static void limit(__rlimit_resource_t resource, rlim_t most)
{
    struct rlimit now;
    if (getrlimit(resource, &now) == 0 && now.rlim_max < most)
        most = now.rlim_max;
    (void)setrlimit(resource, &(struct rlimit){.rlim_cur = most, .rlim_max = most});
}

/* Puts the descriptors in their places, those of volumes from FD_END on, and closes all others, also those that the
 * runtime itself was given. */
static bool place_descriptors(const struct ends *ends, const struct osb_volumes *volumes)
{
    const int end = FD_END + (volumes ? (int)volumes->count : 0);
    int high[FD_END + OSB_MAX_VOLUMES];
    for (int fd = FD_ARGS; fd < end; fd++) {
        if ((high[fd] = fcntl(fd < FD_END ? ends->fd[fd] : volumes->list[fd - FD_END].fd, F_DUPFD, end)) < 0)
            return false;
    }
    int output = fcntl(ends->output, F_DUPFD, end);
    int null = open("/dev/null", O_RDWR);
    if (output < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0)
        return false;
    for (int fd = FD_ARGS; fd < end; fd++) {
        if (dup2(high[fd], fd) < 0)
            return false;
    }
    return syscall(SYS_close_range, end, ~0U, 0) == 0;
}

/* Becomes bubblewrap; comes back only in failure. */
static void become_bwrap(const struct osb_isolation *spec, const struct osb_identity *identity, const struct ends *ends,
                         char **argv)
{
    static char *no_environment[] = {NULL};
    char staging[PATH_MAX + 64];
    staging_path(spec, staging, sizeof staging);
    if (dup2(ends->output, STDERR_FILENO) < 0 || !osb_limits_apply(spec->limits, ends->cgroups) ||
        (identity->switches && spec->volumes->count > 0 && !osb_volumes_attach(spec->volumes, staging)) ||
        !place_descriptors(ends, identity->switches ? NULL : spec->volumes))
        return;
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL); /* not ours, which may hold secrets */
    umask(022);
    if (chdir("/") != 0)
        return;
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NPROC, PROCESSES);
    limit(RLIMIT_NOFILE, OPEN_FILES);
    if (identity->switches && (setgroups(0, NULL) != 0 || setresgid(identity->gid, identity->gid, identity->gid) != 0 ||
                               setresuid(identity->uid, identity->uid, identity->uid) != 0))
        return;
    /* Undone by changes of uid, so it comes last; bubblewrap asks for it again. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
        execve(spec->bwrap, argv, no_environment);
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

/* Makes the two ends of all connections with the new process. False with errno; what was made is in *ends, *started. */
static bool make_ends(const struct osb_isolation *spec, const struct osb_identity *identity, struct ends *ends,
                      struct osb_isolated *started)
{
    int status[2];
    int life[2];
    int gate[2];
    int token[2];
    int output[2];
    if (pipe2(status, O_CLOEXEC | O_NONBLOCK) != 0)
        return false;
    started->status_fd = status[0];
    ends->fd[FD_STATUS] = status[1];
    if (pipe2(life, O_CLOEXEC) != 0)
        return false;
    ends->fd[FD_LIFE] = life[0];
    started->life_fd = life[1];
    if (pipe2(gate, O_CLOEXEC) != 0)
        return false;
    ends->fd[FD_GATE] = gate[0];
    started->gate_fd = gate[1];
    if (pipe2(output, O_CLOEXEC) != 0)
        return false;
    started->output_fd = output[0];
    ends->output = output[1];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, token) != 0)
        return false;
    started->ready_fd = token[0];
    ends->fd[FD_TOKEN] = token[1];
    ends->fd[FD_ARGS] = make_args(spec, identity);
    return ends->fd[FD_ARGS] >= 0 && fcntl(started->output_fd, F_SETFL, O_NONBLOCK) == 0 &&
           osb_path_write_all(started->ready_fd, spec->token, strlen(spec->token)) &&
           shutdown(started->ready_fd, SHUT_WR) == 0 && fcntl(started->ready_fd, F_SETFL, O_NONBLOCK) == 0;
}

bool osb_isolation_start(const struct osb_isolation *spec, const struct osb_identity *identity,
                         struct osb_isolated *started, char *error, size_t size)
{
    struct ends ends = {.fd = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1}, .output = -1, .cgroups = {-1, -1, -1}};
    *started = osb_isolated_none;
    ends.fd[FD_USERNS] = osb_userns_make(identity, error, size);
    if (ends.fd[FD_USERNS] < 0)
        return false;
    if (identity->switches && !osb_volumes_map(spec->volumes, identity, ends.fd[FD_USERNS], error, size)) {
        close(ends.fd[FD_USERNS]);
        return false;
    }
    char **argv = make_argv(spec);
    if (argv && make_ends(spec, identity, &ends, started)) {
        osb_cgroups_make(spec->cgroups, spec->id, spec->limits, ends.cgroups);
        ends.fd[FD_LISTEN] = spec->listen_fd;
        started->monitor = fork();
        if (started->monitor == 0) {
            become_bwrap(spec, identity, &ends, argv);
            dprintf(STDERR_FILENO, "%s: %s\n", spec->bwrap, strerror(errno));
            _exit(127);
        }
        ends.fd[FD_LISTEN] = -1;
    }
    int code = errno;
    if (started->monitor > 0) {
        started->monitor_fd = (int)syscall(SYS_pidfd_open, started->monitor, 0);
        code = errno;
        if (started->monitor_fd < 0) {
            (void)kill(started->monitor, SIGKILL);
            (void)waitpid(started->monitor, NULL, 0);
        }
    }
    free(argv);
    close_all(ends.fd, FD_END);
    close_all(&ends.output, 1);
    close_all(ends.cgroups, OSB_CGROUPS);
    if (started->monitor_fd >= 0)
        return true;
    snprintf(error, size, "no process could be started: %s", strerror(code));
    close_all(&started->status_fd, 1);
    close_all(&started->life_fd, 1);
    close_all(&started->ready_fd, 1);
    close_all(&started->gate_fd, 1);
    close_all(&started->output_fd, 1);
    return false;
}

/* ---- signals ---- */

/* In a process of its own: enters the sandbox's user and pid namespaces, where kill(-1) reaches all at one stroke. It
 * is seen in there for a moment, so it takes nothing along; its memory is closed to others like the runtime's. */
static bool signal_from_inside(int user, int pids, int signal)
{
    if (setns(user, CLONE_NEWUSER) != 0 || setns(pids, CLONE_NEWPID) != 0 || syscall(SYS_close_range, 0, ~0U, 0) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        _exit(kill(-1, signal) == 0 || errno == ESRCH ? 0 : 1);
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool send_by_pidfd(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0;
}

bool osb_isolation_signal(pid_t init, int init_fd, int signal)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/ns/user", (long)init);
    int user = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/%ld/ns/pid", (long)init);
    int pids = open(path, O_RDONLY | O_CLOEXEC);
    /* alive now, so the namespaces were those of this process and not of a later one with its number */
    pid_t pid = user >= 0 && pids >= 0 && send_by_pidfd(init_fd, 0) ? fork() : -1;
    if (pid == 0)
        _exit(signal_from_inside(user, pids, signal) ? 0 : 1);
    close_all((const int[]){user, pids}, 2);
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && send_by_pidfd(init_fd, signal);
}
