/* opensandbox-runtime: the lifecycle API with sandboxes made by bubblewrap. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/image.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/network.h"
#include "runtime/runtime/options.h"
#include "runtime/runtime/owner.h"
#include "runtime/runtime/path.h"
#include "runtime/runtime/runtime.h"
#include "runtime/runtime/record.h"
#include "runtime/runtime/sandbox.h"
#include "runtime/runtime/snapshot.h"
#include "runtime/runtime/userns.h"
#include "runtime/shared/text.h"

#define KEY_DIGITS 48

struct problem {
    char text[512];
};

#define PROBLEM(problem, ...) (snprintf((problem)->text, sizeof(problem)->text, __VA_ARGS__), false)

/* ---- what is printed ---- */

/* Prints one JSON line on standard output and closes it. Takes `line`. */
static void announce(json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT);
    if (text) {
        (void)osb_path_write_all(STDOUT_FILENO, text, strlen(text));
        (void)osb_path_write_all(STDOUT_FILENO, "\n", 1);
    }
    free(text);
    json_decref(line);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO); /* not closed: its number must not fall to something else */
        close(null);
    }
}

static int fail(const struct osb_options *options, const struct problem *problem)
{
    osb_log("%s", problem->text);
    if (options->embedded)
        announce(json_pack("{s:{s:s, s:s}}", "error", "code", "unsupported", "message", problem->text));
    else
        (void)fprintf(stderr, "opensandbox-runtime: %s\n", problem->text);
    return 1;
}

/* ---- preparing ---- */

/* Nothing of the process that started us stays: no descriptors, no terminal; nobody looks into our memory. */
static void detach(void)
{
    (void)syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)setsid();
    umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGCHLD, SIG_DFL);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

static bool find_programs(struct osb_runtime *runtime, char execd[PATH_MAX], struct problem *problem)
{
    if (!osb_path_find_program("bwrap", runtime->bwrap, sizeof runtime->bwrap))
        return PROBLEM(problem, "bubblewrap was not found: install it (Debian: apt-get install bubblewrap)");
    const char *given = getenv("OPENSANDBOX_EXECD");
    if (given && *given) {
        if (access(given, X_OK) != 0 || !realpath(given, execd))
            return PROBLEM(problem, "OPENSANDBOX_EXECD is %s: %s", given, strerror(errno));
        return true;
    }
    ssize_t len = readlink("/proc/self/exe", execd, PATH_MAX - 1);
    if (len <= 0)
        return PROBLEM(problem, "/proc is not mounted");
    execd[len] = '\0';
    char *name = strrchr(execd, '/') + 1;
    snprintf(name, PATH_MAX - (size_t)(name - execd), "opensandbox-execd");
    return true;
}

/* Tries what every sandbox needs, so that a machine without it is told at once. */
static bool try_userns(struct problem *problem)
{
    struct osb_identity identity;
    if (!osb_identity_pick(&identity, problem->text, sizeof problem->text))
        return false;
    int userns = osb_userns_make(&identity, problem->text, sizeof problem->text);
    if (userns >= 0)
        close(userns);
    return userns >= 0;
}

static bool read_key(const struct osb_options *options, struct osb_runtime *runtime, struct problem *problem)
{
    if (options->embedded) {
        osb_random_hex(runtime->api_key, KEY_DIGITS);
        return true;
    }
    osb_path_read_line(options->api_key_file, runtime->api_key, sizeof runtime->api_key);
    if (!*runtime->api_key)
        return PROBLEM(problem, "the API key file %s can't be read or begins with an empty line",
                       options->api_key_file);
    return true;
}

/* The path of a directory that is there, or that may be made in one that is. */
static bool absolute_path(const char *given, char path[PATH_MAX])
{
    if (mkdir(given, 0700) == 0)
        (void)chmod(given, geteuid() == 0 ? 0711 : 0700); /* sandboxes of root are other users, who must pass */
    return realpath(given, path) != NULL;
}

/* Everything before the loop. What it opened before a failure is closed by the end of the process. */
static bool prepare(const struct osb_options *options, struct osb_runtime *runtime, struct problem *problem)
{
    char execd[PATH_MAX];
    char state[PATH_MAX];
    memcpy(runtime->aliases, options->aliases, sizeof runtime->aliases);
    runtime->alias_count = options->alias_count;
    memcpy(runtime->exempt, options->exempt, sizeof runtime->exempt);
    runtime->exempt_count = options->exempt_count;
    runtime->allow_host_network = options->embedded || options->allow_host_network;
    runtime->allowed_paths = options->allowed_paths;
    if (options->state && !absolute_path(options->state, state))
        return PROBLEM(problem, "the state directory %s: %s", options->state, strerror(errno));
    if (!find_programs(runtime, execd, problem) || !read_key(options, runtime, problem) || !try_userns(problem) ||
        !osb_state_open(&runtime->state, options->state ? state : NULL, problem->text, sizeof problem->text))
        return false;
    osb_cgroups_open(&runtime->cgroups, runtime->state.name);
    if (!osb_janitor_start(&runtime->janitor, runtime->state.parent, runtime->state.name, runtime->state.dir,
                           &runtime->cgroups))
        return PROBLEM(problem, "no process can be made: %s", strerror(errno));
    if (!osb_image_prepare(&runtime->state, execd, problem->text, sizeof problem->text)) {
        osb_janitor_finish(&runtime->janitor);
        return false;
    }
    return true;
}

/* ---- running ---- */

struct stop {
    struct osb_evloop *loop;
    int fd;
};

static void on_signal(void *context, uint32_t events)
{
    const struct stop *stop = context;
    struct signalfd_siginfo info;
    (void)events;
    if (read(stop->fd, &info, sizeof info) > 0)
        osb_evloop_stop(stop->loop);
}

static void on_janitor_end(void *context, uint32_t events)
{
    const struct osb_runtime *runtime = context;
    (void)events;
    osb_log("the janitor died, so everything ends");
    osb_evloop_stop(runtime->loop);
}

static bool watch_signals(struct stop *stop, struct osb_evloop *loop)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    stop->loop = loop;
    stop->fd = sigprocmask(SIG_BLOCK, &signals, NULL) == 0 ? signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK) : -1;
    return stop->fd >= 0 && osb_evloop_watch(loop, stop->fd, EPOLLIN, on_signal, stop);
}

/* Opens the socket and serves; *url is where. */
static bool serve(const struct osb_options *options, struct osb_runtime *runtime, char *url, size_t size,
                  struct problem *problem)
{
    const char *address = options->embedded ? "127.0.0.1:0" : options->listen;
    uint16_t port;
    int fd = osb_network_listen_at(address, &port);
    if (fd < 0 && errno == EINVAL)
        return PROBLEM(problem, "%s is no loopback address with a port, such as 127.0.0.1:8080", address);
    if (fd < 0)
        return PROBLEM(problem, "%s can't be listened on: %s", address, strerror(errno));
    snprintf(url, size, "http://%.*s:%u", (int)(strrchr(address, ':') - address), address, port);
    runtime->server = osb_api_serve(runtime, fd);
    return runtime->server != NULL || PROBLEM(problem, "memory is out");
}

static bool run(const struct osb_options *options, struct osb_runtime *runtime, struct osb_owner *owner,
                struct problem *problem)
{
    struct stop stop;
    char url[128];
    runtime->loop = osb_evloop_new();
    runtime->proxy = runtime->loop ? osb_http_proxy_new(runtime->loop) : NULL;
    runtime->resolver = runtime->proxy ? osb_resolver_new(runtime->loop) : NULL;
    if (runtime->resolver)
        runtime->egress = osb_egress_service_new(runtime->loop, runtime->proxy, runtime->resolver, runtime->exempt,
                                                 runtime->exempt_count);
    if (!runtime->egress || !watch_signals(&stop, runtime->loop) ||
        !osb_evloop_watch(runtime->loop, runtime->janitor.link, EPOLLIN | EPOLLRDHUP, on_janitor_end, runtime))
        return PROBLEM(problem, "memory or descriptors are out: %s", strerror(errno));
    if (options->embedded && !osb_owner_watch(owner, runtime->loop))
        return PROBLEM(problem, "standard input must be a pipe from the owner: %s", strerror(errno));
    osb_snapshot_load_all(runtime);
    osb_record_load_all(runtime);
    if (!serve(options, runtime, url, sizeof url, problem))
        return false;
    osb_log("serving on %s", url);
    if (options->embedded)
        announce(json_pack("{s:s, s:s}", "url", url, "api_key", runtime->api_key));
    osb_evloop_run(runtime->loop);
    return true;
}

int main(int argc, char **argv)
{
    static struct osb_options options;
    struct osb_owner owner;
    struct problem problem = {{0}};
    static struct osb_runtime runtime;
    osb_options_read(&options, argc, argv);
    detach();
    osb_owner_open(&owner);
    if (!osb_log_open(options.log) && !options.log_optional)
        (void)PROBLEM(&problem, "the log %s can't be opened: %s", options.log, strerror(errno));
    if (*problem.text || !prepare(&options, &runtime, &problem))
        return fail(&options, &problem);
    bool ran = run(&options, &runtime, &owner, &problem);
    if (runtime.proxy)
        osb_http_proxy_free(runtime.proxy);
    osb_snapshot_forget_all(&runtime);
    osb_sandbox_forget_all(&runtime);
    osb_egress_service_free(runtime.egress);
    if (runtime.server)
        osb_http_server_free(runtime.server);
    osb_janitor_finish(&runtime.janitor);
    osb_owner_close(&owner);
    if (runtime.loop)
        osb_evloop_free(runtime.loop);
    return ran ? 0 : fail(&options, &problem);
}
