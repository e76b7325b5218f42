/* opensandbox-execd: serves commands, sessions, files, metrics and ports of the sandbox that it runs in. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "entrypoint.h"
#include "environment.h"
#include "execd.h"
#include "owner.h"
#include "record.h"
#include "run.h"

#define DEFAULT_PORT 44772
#define WORKERS 4
#define BODY_LIMIT ((size_t)32 << 20)
#define TOKEN_SIZE 4096

struct options {
    int listen_fd, token_fd, life_fd, log_fd;
    unsigned int port;
    const char *host;
    const char *const *entrypoint; /* NULL-terminated; empty when there is none */
};

static void ping(struct osb_http_request *request, void *context)
{
    (void)context;
    osb_http_reply_empty(request, 200);
}

static const struct osb_http_route routes[] = {
    {"GET", "/ping", ping, false},
    {"POST", "/command", osb_command_run, false},
    {"DELETE", "/command", osb_command_interrupt, false},
    {"GET", "/command/status/:id", osb_command_status, false},
    {"GET", "/command/:id/logs", osb_command_logs, false},
    {"POST", "/code", osb_code_run, false},
    {"DELETE", "/code", osb_command_interrupt, false},
    {"POST", "/code/context", osb_code_create, false},
    {"GET", "/code/contexts", osb_code_list, false},
    {"DELETE", "/code/contexts", osb_code_delete_language, false},
    {"GET", "/code/contexts/:id", osb_code_get, false},
    {"DELETE", "/code/contexts/:id", osb_code_delete, false},
    {"POST", "/session", osb_session_create, false},
    {"POST", "/session/:id/run", osb_session_run, false},
    {"DELETE", "/session/:id", osb_session_delete, false},
    {"GET", "/files/info", osb_file_info, false},
    {"DELETE", "/files", osb_file_remove, false},
    {"POST", "/files/permissions", osb_file_permissions, false},
    {"POST", "/files/mv", osb_file_move, false},
    {"GET", "/files/search", osb_file_search, false},
    {"POST", "/files/replace", osb_file_replace, false},
    {"POST", "/files/upload", osb_file_upload, true},
    {"GET", "/files/download", osb_file_download, false},
    {"GET", "/directories/list", osb_directory_list, false},
    {"POST", "/directories", osb_directory_make, false},
    {"DELETE", "/directories", osb_directory_remove, false},
    {"GET", "/metrics", osb_metrics_get, false},
    {"GET", "/metrics/watch", osb_metrics_follow, false},
    {"*", "/proxy/:port/*", osb_port_forward, true},
    {"*", "/proxy/*", osb_port_forward, true},
};

/* Compares without a hint by its time at how far they agree. */
static bool same_token(const char *token, const char *given)
{
    size_t len = strlen(token), given_len = strlen(given);
    unsigned char difference = len != given_len;
    for (size_t i = 0; i < given_len; i++)
        difference |= (unsigned char)(given[i] ^ token[len ? i % len : 0]);
    return difference == 0;
}

static bool authorize(struct osb_http_request *request, void *context)
{
    static const char refusal[] = "{\"error\":\"Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN\"}";
    const struct osb_execd *execd = context;
    const char *given = osb_http_request_header(request, "X-EXECD-ACCESS-TOKEN");
    if (!execd->token || (given && *given && same_token(execd->token, given)))
        return true;
    osb_http_reply_bytes(request, 401, "application/json; charset=utf-8", refusal, strlen(refusal));
    return false;
}

/* ---- start ---- */

static bool read_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"listen-fd", required_argument, NULL, 'l'},
        {"port", required_argument, NULL, 'p'},
        {"host", required_argument, NULL, 'h'},
        {"token-fd", required_argument, NULL, 't'},
        {"life-fd", required_argument, NULL, 'i'},
        {"log-fd", required_argument, NULL, 'o'},
        {NULL, 0, NULL, 0},
    };
    *options = (struct options){-1, -1, -1, -1, DEFAULT_PORT, "0.0.0.0", NULL};
    int option;
    while ((option = getopt_long(argc, argv, "+", known, NULL)) != -1) {
        char *end = NULL;
        long number = option == 'h' || option == '?' ? 0 : strtol(optarg, &end, 10);
        if (option == '?' || (end && (*end || end == optarg || number < 0 || number > 65535)))
            return false;
        switch (option) {
        case 'l':
            options->listen_fd = (int)number;
            break;
        case 'p':
            options->port = (unsigned int)number;
            break;
        case 'h':
            options->host = optarg;
            break;
        case 't':
            options->token_fd = (int)number;
            break;
        case 'i':
            options->life_fd = (int)number;
            break;
        default:
            options->log_fd = (int)number;
        }
    }
    options->entrypoint = (const char *const *)argv + optind;
    return true;
}

/* The token: what the descriptor gives up to its end or a newline, or by environment. False when it can't be read. */
static bool read_token(int fd, char **token)
{
    char text[TOKEN_SIZE] = {0};
    size_t len = 0;
    const char *given = getenv("EXECD_ACCESS_TOKEN");
    *token = NULL;
    if (fd < 0) {
        if (given && *given && !(*token = strdup(given)))
            return false;
        unsetenv("EXECD_ACCESS_TOKEN");
        return true;
    }
    while (len < sizeof text && !memchr(text, '\n', len)) {
        ssize_t got = read(fd, text + len, sizeof text - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return false;
        if (got == 0)
            break;
        len += (size_t)got;
    }
    close(fd);
    const char *newline = memchr(text, '\n', len);
    *token = strndup(text, newline ? (size_t)(newline - text) : len);
    explicit_bzero(text, sizeof text);
    return *token && **token;
}

static int open_listener(const struct options *options)
{
    const int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options->port)};
    if (inet_pton(AF_INET, options->host, &address.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static unsigned int port_of(int fd)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.sin_family == AF_INET
               ? ntohs(address.sin_port)
               : 0;
}

/* ---- end ---- */

/* A signal. */
static void stop_requested(void *context, uint32_t events)
{
    (void)events;
    osb_evloop_stop(context);
}

/* The owner's pipe, on which nothing is ever sent, has ended: whatever is under way, all ends now. */
static void owner_ended(void *context, uint32_t events)
{
    struct osb_execd *execd = context;
    (void)events;
    osb_child_table_free(execd->children);
    osb_record_table_free(execd->records);
    _exit(0);
}

static bool start(struct osb_execd *execd, const struct options *options, int signal_fd)
{
    int listener = options->listen_fd >= 0 ? options->listen_fd : open_listener(options);
    if (listener < 0) {
        dprintf(options->log_fd, "opensandbox-execd: cannot listen on %s:%u: %s\n", options->host, options->port,
                strerror(errno));
        return false;
    }
    execd->port = port_of(listener);
    execd->loop = osb_evloop_new();
    if (execd->loop) {
        execd->children = osb_child_table_new(execd->loop);
        execd->records = osb_record_table_new();
        execd->workers = osb_worker_pool_new(execd->loop, WORKERS);
        execd->proxy = osb_http_proxy_new(execd->loop);
        const struct osb_http_config config = {
            .loop = execd->loop,
            .listen_fd = listener,
            .routes = routes,
            .route_count = sizeof routes / sizeof *routes,
            .context = execd,
            .authorize = authorize,
            .body_limit = BODY_LIMIT,
        };
        execd->server = osb_http_server_new(&config);
    }
    bool started =
        execd->loop && execd->children && execd->records && execd->workers && execd->proxy && execd->server &&
        osb_evloop_watch(execd->loop, signal_fd, EPOLLIN, stop_requested, execd->loop) &&
        (options->life_fd < 0 || osb_evloop_watch(execd->loop, options->life_fd, EPOLLIN, owner_ended, execd));
    if (!started)
        dprintf(options->log_fd, "opensandbox-execd: cannot start: %s\n", strerror(errno));
    return started;
}

/* Workers first, as they hold requests; then whatever answers; then the processes. */
static void stop(struct osb_execd *execd)
{
    osb_worker_pool_free(execd->workers);
    osb_run_stop_all();
    osb_code_delete_all(execd);
    osb_metrics_stop_all(execd);
    osb_http_proxy_free(execd->proxy);
    osb_http_server_free(execd->server);
    osb_child_table_free(execd->children);
    osb_session_close_all(execd);
    osb_record_table_free(execd->records);
    osb_evloop_free(execd->loop);
    osb_owner_free();
    osb_environment_free();
    free(execd->token);
}

int main(int argc, char **argv)
{
    /* nobody in the sandbox may look into this process, or take its descriptors */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    struct options options;
    if (!read_options(argc, argv, &options)) {
        fprintf(stderr, "usage: opensandbox-execd [--listen-fd N | --host ADDRESS --port N] [--token-fd N] [--life-fd "
                        "N] [--log-fd N] [-- ENTRYPOINT...]\n");
        return 2;
    }
    if (options.log_fd < 0)
        options.log_fd = STDERR_FILENO;
    struct osb_execd execd = {0};
    sigset_t blocked, ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    blocked = ends;
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    int signal_fd = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    osb_owner_init();
    if (signal_fd < 0 || !osb_environment_init() || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        dprintf(options.log_fd, "opensandbox-execd: out of memory\n");
        return 1;
    }
    json_object_seed(0);
    struct osb_entrypoint entrypoint = {0};
    bool started = start(&execd, &options, signal_fd);
    if (started && options.entrypoint[0])
        started = osb_entrypoint_start(&entrypoint, execd.loop, execd.children, options.entrypoint, options.log_fd);
    /* last: whoever sent the token knows by our reading it that all is well */
    if (started && !read_token(options.token_fd, &execd.token)) {
        dprintf(options.log_fd, "opensandbox-execd: no token came by descriptor %d\n", options.token_fd);
        started = false;
    }
    if (started)
        osb_evloop_run(execd.loop);
    stop(&execd);
    curl_global_cleanup();
    return started || entrypoint.status ? entrypoint.status : 1;
}
