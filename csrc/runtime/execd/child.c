#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 256
#define WANTED_FILES 65536
#define INTERRUPT_DEPTH 16
#define KILL_ROUNDS 500 /* ms that the end of all processes is waited for */

struct child {
    pid_t pid;
    void (*ended)(void *context, int status);
    void *context;
    struct child *next;
};

struct osb_child_table {
    struct osb_evloop *loop;
    struct osb_watch *watch;
    int signal_fd;
    int null_fd;
    struct rlimit files; /* of the processes */
    size_t count;
    struct child *buckets[BUCKETS];
};

static struct child **find_slot(struct osb_child_table *table, pid_t pid)
{
    struct child **slot = &table->buckets[(unsigned int)pid % BUCKETS];
    while (*slot && (*slot)->pid != pid)
        slot = &(*slot)->next;
    return slot;
}

/* Reaps all that ended: children of ours and orphans. */
static void reap(void *context, uint32_t events)
{
    struct osb_child_table *table = context;
    struct signalfd_siginfo info;
    (void)events;
    while (read(table->signal_fd, &info, sizeof info) > 0)
        ;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct child **slot = find_slot(table, pid), *child = *slot;
        if (!child)
            continue;
        *slot = child->next;
        table->count--;
        if (child->ended)
            child->ended(child->context, status);
        free(child);
    }
}

void osb_child_forget(struct osb_child_table *table, pid_t pid)
{
    struct child *child = *find_slot(table, pid);
    if (child)
        child->ended = NULL;
}

/* Raises the limit of open files, whose old value is kept in `before`. */
static void raise_file_limit(struct rlimit *before)
{
    if (getrlimit(RLIMIT_NOFILE, before) < 0) {
        *before = (struct rlimit){1024, 1024};
        return;
    }
    struct rlimit wanted = *before;
    if (wanted.rlim_cur < WANTED_FILES)
        wanted.rlim_cur = wanted.rlim_max < WANTED_FILES ? wanted.rlim_max : WANTED_FILES;
    setrlimit(RLIMIT_NOFILE, &wanted);
}

struct osb_child_table *osb_child_table_new(struct osb_evloop *loop)
{
    struct osb_child_table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    table->loop = loop;
    raise_file_limit(&table->files);
    table->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    table->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (table->signal_fd >= 0)
        table->watch = osb_evloop_watch(loop, table->signal_fd, EPOLLIN, reap, table);
    if (!table->watch || table->null_fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) {
        osb_child_table_free(table);
        return NULL;
    }
    return table;
}

/* Sends a signal to the direct children of a process (of ourselves: orphans that came to us included), and to theirs as
 * deep as said. */
static void signal_children(pid_t parent, int number, unsigned int depth)
{
    char path[64], list[4096];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t len = read(fd, list, sizeof list - 1);
    close(fd);
    if (len <= 0)
        return;
    list[len] = '\0';
    char *at = list;
    for (;;) {
        char *end;
        long pid = strtol(at, &end, 10);
        /* a number at the end of the buffer may be cut; the next round has it */
        if (end == at || *end == '\0')
            break;
        if (depth > 1)
            signal_children((pid_t)pid, number, depth - 1);
        kill((pid_t)pid, number);
        at = end;
    }
}

void osb_child_interrupt_below(pid_t pid)
{
    signal_children(pid, SIGINT, INTERRUPT_DEPTH);
}

void osb_child_table_free(struct osb_child_table *table)
{
    if (!table)
        return;
    osb_watch_remove(table->watch);
    for (size_t i = 0; i < BUCKETS; i++) {
        while (table->buckets[i]) {
            struct child *child = table->buckets[i];
            kill(-child->pid, SIGKILL);
            table->buckets[i] = child->next;
            free(child);
        }
    }
    for (int round = 0; round < KILL_ROUNDS; round++) {
        signal_children(getpid(), SIGKILL, 1);
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (table->signal_fd >= 0)
        close(table->signal_fd);
    if (table->null_fd >= 0)
        close(table->null_fd);
    free(table);
}

size_t osb_child_count(const struct osb_child_table *table)
{
    return table->count;
}

/* ---- starting ---- */

enum step { STEP_EXEC, STEP_CHDIR, STEP_SETUP };

struct failure {
    enum step step;
    int error;
};

_Noreturn static void child_fail(int report, enum step step)
{
    struct failure failure = {step, errno};
    if (write(report, &failure, sizeof failure) < 0)
        _exit(126);
    _exit(127);
}

/* Runs between fork and exec: only async-signal-safe calls, as there are other threads. */
_Noreturn static void child_main(const struct osb_child_table *table, const struct osb_child_spec *spec, int report)
{
    enum { STANDARD = 3, ALL = STANDARD + OSB_CHILD_EXTRA_MAX, FIRST_FREE = 32 };
    int sources[ALL] = {spec->input ? spec->input : table->null_fd, spec->output, spec->error};
    int targets[ALL] = {0, 1, 2};
    for (size_t i = 0; i < spec->extra_count; i++) {
        sources[STANDARD + i] = spec->extra[i];
        targets[STANDARD + i] = OSB_CHILD_EXTRA_FD + (int)i;
    }
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;

    if (spec->terminal)
        setsid();
    else
        setpgid(0, 0);
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &standard, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    /* move all out of the way of the numbers they get */
    int moved[ALL];
    report = fcntl(report, F_DUPFD_CLOEXEC, FIRST_FREE);
    for (size_t i = 0; i < STANDARD + spec->extra_count; i++) {
        moved[i] = fcntl(sources[i], F_DUPFD_CLOEXEC, FIRST_FREE);
        if (moved[i] < 0)
            child_fail(report, STEP_SETUP);
    }
    for (size_t i = 0; i < STANDARD + spec->extra_count; i++) {
        if (dup2(moved[i], targets[i]) < 0)
            child_fail(report, STEP_SETUP);
    }
    if (spec->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
        child_fail(report, STEP_SETUP);
    unsigned int last = spec->extra_count ? (unsigned int)targets[2 + spec->extra_count] : 2;
    if (spec->extra_count)
        close_range(3, OSB_CHILD_EXTRA_FD - 1, 0);
    close_range(last + 1, FIRST_FREE - 1, 0);
    close_range(FIRST_FREE, ~0u, CLOSE_RANGE_CLOEXEC);
    setrlimit(RLIMIT_NOFILE, &table->files);

    /* not by the C library, which would have other threads do the same */
    if (spec->set_ids && (syscall(SYS_setgroups, spec->group_count, spec->groups) < 0 ||
                          syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0 ||
                          syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid) < 0))
        child_fail(report, STEP_EXEC);
    if (spec->cwd && chdir(spec->cwd) < 0)
        child_fail(report, STEP_CHDIR);
    execve(spec->program, (char *const *)(uintptr_t)spec->argv, spec->environment);
    child_fail(report, STEP_EXEC);
}

static void describe_failure(const struct osb_child_spec *spec, const struct failure *failure,
                             char error[OSB_CHILD_ERROR_SIZE])
{
    const char *what = failure->step == STEP_CHDIR ? "chdir" : "fork/exec";
    const char *path = failure->step == STEP_CHDIR ? spec->cwd : spec->program;
    char reason[128];
    snprintf(reason, sizeof reason, "%s", strerror(failure->error));
    if (reason[0] >= 'A' && reason[0] <= 'Z')
        reason[0] = (char)(reason[0] + ('a' - 'A'));
    snprintf(error, OSB_CHILD_ERROR_SIZE, "%s %.300s: %s", what, path, reason);
}

pid_t osb_child_start(struct osb_child_table *table, const struct osb_child_spec *spec,
                      void (*ended)(void *context, int status), void *context, char error[OSB_CHILD_ERROR_SIZE])
{
    struct failure failure = {STEP_EXEC, 0};
    int report[2];
    struct child *child = malloc(sizeof *child);
    if (!child || pipe2(report, O_CLOEXEC) < 0) {
        failure.error = child ? errno : ENOMEM;
        describe_failure(spec, &failure, error);
        free(child);
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0)
        child_main(table, spec, report[1]);
    if (pid < 0)
        failure.error = errno;
    close(report[1]);
    bool failed = pid < 0;
    if (!failed) {
        ssize_t got;
        while ((got = read(report[0], &failure, sizeof failure)) < 0 && errno == EINTR)
            ;
        failed = got > 0;
        if (failed)
            waitpid(pid, NULL, 0);
    }
    close(report[0]);
    if (failed) {
        describe_failure(spec, &failure, error);
        free(child);
        return -1;
    }
    *child = (struct child){.pid = pid, .ended = ended, .context = context};
    struct child **slot = &table->buckets[(unsigned int)pid % BUCKETS];
    child->next = *slot;
    *slot = child;
    table->count++;
    return pid;
}

/* ---- wording ---- */

void osb_child_describe(int status, char out[64])
{
    static const char *const names[] = {NULL,
                                        "hangup",
                                        "interrupt",
                                        "quit",
                                        "illegal instruction",
                                        "trace/breakpoint trap",
                                        "aborted",
                                        "bus error",
                                        "floating point exception",
                                        "killed",
                                        "user defined signal 1",
                                        "segmentation fault",
                                        "user defined signal 2",
                                        "broken pipe",
                                        "alarm clock",
                                        "terminated"};
    if (!WIFSIGNALED(status)) {
        snprintf(out, 64, "exit status %d", WEXITSTATUS(status));
        return;
    }
    int number = WTERMSIG(status);
    const char *core = WCOREDUMP(status) ? " (core dumped)" : "";
    if (number < (int)(sizeof names / sizeof *names))
        snprintf(out, 64, "signal: %s%s", names[number], core);
    else
        snprintf(out, 64, "signal: signal %d%s", number, core);
}

int osb_child_exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
