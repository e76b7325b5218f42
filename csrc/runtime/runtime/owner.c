#include "runtime/runtime/owner.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/runtime/log.h"

void osb_owner_open(struct osb_owner *owner)
{
    const pid_t parent = getppid();
    *owner = (struct osb_owner){.process = (int)syscall(SYS_pidfd_open, parent, 0)};
    if (getppid() != parent && owner->process >= 0) { /* it died meanwhile; the pipe will tell */
        close(owner->process);
        owner->process = -1;
    }
}

static void on_pipe(void *context, uint32_t events)
{
    const struct osb_owner *owner = context;
    char dropped[256];
    (void)events;
    ssize_t len = read(STDIN_FILENO, dropped, sizeof dropped);
    if (len > 0 || (len < 0 && (errno == EINTR || errno == EAGAIN)))
        return;
    osb_log("the owner closed its pipe");
    osb_evloop_stop(owner->loop);
}

static void on_process(void *context, uint32_t events)
{
    const struct osb_owner *owner = context;
    (void)events;
    osb_log("the owner's process ended");
    osb_evloop_stop(owner->loop);
}

bool osb_owner_watch(struct osb_owner *owner, struct osb_evloop *loop)
{
    owner->loop = loop;
    owner->pipe_watch = osb_evloop_watch(loop, STDIN_FILENO, EPOLLIN | EPOLLRDHUP, on_pipe, owner);
    if (owner->process >= 0)
        owner->process_watch = osb_evloop_watch(loop, owner->process, EPOLLIN, on_process, owner);
    return owner->pipe_watch != NULL;
}

void osb_owner_close(struct osb_owner *owner)
{
    osb_watch_remove(owner->pipe_watch);
    osb_watch_remove(owner->process_watch);
    if (owner->process >= 0)
        close(owner->process);
}
