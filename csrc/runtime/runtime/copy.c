#include "runtime/runtime/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/runtime/tree_copy.h"
#include "runtime/runtime/userns.h"

struct osb_copy {
    struct osb_evloop *loop;
    pid_t pid;
    int pidfd;
    int error_fd; /* read end of a pipe; the process writes why it failed */
    struct osb_watch *watch;
    osb_copy_done done;
    void *context;
};

static void free_copy(struct osb_copy *copy)
{
    osb_watch_remove(copy->watch);
    if (copy->pidfd >= 0)
        close(copy->pidfd);
    if (copy->error_fd >= 0)
        close(copy->error_fd);
    free(copy);
}

static int reap(const struct osb_copy *copy)
{
    int status = -1;
    while (waitpid(copy->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

static void on_end(void *context, uint32_t events)
{
    struct osb_copy *copy = context;
    char error[512];
    (void)events;
    int status = reap(copy);
    ssize_t len = read(copy->error_fd, error, sizeof error - 1);
    error[len > 0 ? len : 0] = '\0';
    osb_copy_done done = copy->done;
    void *done_context = copy->context;
    free_copy(copy);
    bool copied = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    done(done_context, copied ? NULL : *error ? error : "the process that copied was killed");
}

/* The new process: keeps only what it needs, so that ends of pipes that others wait for do not stay open. */
static int run(const struct osb_copy_spec *spec, int userns, int error_fd, pid_t runtime)
{
    const int wanted[] = {spec->from, spec->to, error_fd, userns};
    const size_t count = sizeof wanted / sizeof *wanted - (userns < 0);
    int high[sizeof wanted / sizeof *wanted];
    for (size_t i = 0; i < count; i++) {
        if ((high[i] = fcntl(wanted[i], F_DUPFD, 16)) < 0)
            return 1;
    }
    for (size_t i = 0; i < count; i++) {
        if (dup2(high[i], 3 + (int)i) < 0)
            return 1;
    }
    if (syscall(SYS_close_range, 3 + (int)count, ~0U, 0) != 0 || (userns >= 0 && setns(6, CLONE_NEWUSER) != 0) ||
        prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != runtime)
        return 1;
    struct osb_tree_copy copy = {.from = 3, .to = 4};
    if (spec->owner->switches)
        *(spec->from_sandbox ? &copy.owner_from : &copy.owner_to) = spec->owner;
    for (size_t i = 0; spec->names[i]; i++) {
        if (!osb_tree_copy(&copy, spec->names[i])) {
            dprintf(5, "%s can't be copied: %s", copy.failed, strerror(copy.code));
            return 1;
        }
    }
    return 0;
}

struct osb_copy *osb_copy_start(struct osb_evloop *loop, const struct osb_copy_spec *spec, osb_copy_done done,
                                void *context)
{
    const pid_t runtime = getpid();
    char error[256];
    int ends[2] = {-1, -1};
    int userns = -1;
    struct osb_copy *copy = calloc(1, sizeof *copy);
    if (!copy || pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        free(copy);
        return NULL;
    }
    *copy =
        (struct osb_copy){.loop = loop, .pid = -1, .pidfd = -1, .error_fd = ends[0], .done = done, .context = context};
    if (spec->owner->switches || (userns = osb_userns_make(spec->owner, error, sizeof error)) >= 0)
        copy->pid = fork();
    if (copy->pid == 0)
        _exit(run(spec, userns, ends[1], runtime));
    int code = errno;
    if (userns >= 0)
        close(userns);
    close(ends[1]);
    if (copy->pid > 0) {
        copy->pidfd = (int)syscall(SYS_pidfd_open, copy->pid, 0);
        copy->watch = copy->pidfd < 0 ? NULL : osb_evloop_watch(loop, copy->pidfd, EPOLLIN, on_end, copy);
        code = errno;
        if (copy->watch)
            return copy;
        (void)kill(copy->pid, SIGKILL);
        (void)reap(copy);
    }
    free_copy(copy);
    errno = code;
    return NULL;
}

void osb_copy_cancel(struct osb_copy *copy)
{
    (void)kill(copy->pid, SIGKILL);
    (void)reap(copy);
    free_copy(copy);
}
