#include "runtime/runtime/janitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/runtime/clean.h"
#include "runtime/runtime/log.h"

#define NAME_SIZE 40
#define KIND_REMOVE 'r'
#define GONE_WAIT 10000 /* ms that killed processes may take */

struct message {
    char kind;
    char name[NAME_SIZE];
};

/* A descriptor that stands for processes of a sandbox. */
struct holder {
    struct holder *next;
    char name[NAME_SIZE];
    char kind;
    int fd;
};

static bool send_message(const struct osb_janitor *janitor, char kind, const char *name, int fd)
{
    struct message message = {.kind = kind};
    snprintf(message.name, sizeof message.name, "%s", name);
    struct iovec part = {.iov_base = &message, .iov_len = sizeof message};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof control.bytes;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t sent;
    do {
        sent = sendmsg(janitor->link, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof message;
}

bool osb_janitor_add(const struct osb_janitor *janitor, const char *name, enum osb_janitor_kind kind, int fd)
{
    return send_message(janitor, (char)kind, name, fd);
}

bool osb_janitor_remove(const struct osb_janitor *janitor, const char *name)
{
    return send_message(janitor, KIND_REMOVE, name, -1);
}

void osb_janitor_finish(struct osb_janitor *janitor)
{
    close(janitor->link);
    while (waitpid(janitor->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/* ---- the process ---- */

/* Receives one message; its descriptor goes to *fd, else -1. False at the end of the runtime. */
static bool receive(int link, struct message *message, int *fd)
{
    *fd = -1;
    struct iovec part = {.iov_base = message, .iov_len = sizeof *message};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t len;
    do {
        len = recvmsg(link, &header, MSG_CMSG_CLOEXEC);
    } while (len < 0 && errno == EINTR);
    if (len != (ssize_t)sizeof *message)
        return false;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(rights), sizeof *fd);
    message->name[NAME_SIZE - 1] = '\0';
    return true;
}

static void kill_holder(const struct holder *holder)
{
    if (holder->kind == OSB_JANITOR_PROCESS)
        (void)syscall(SYS_pidfd_send_signal, holder->fd, SIGKILL, NULL, 0);
}

/* Waits until what the holder stands for is gone. */
static void wait_holder(const struct holder *holder)
{
    struct pollfd wait = {.fd = holder->fd, .events = holder->kind == OSB_JANITOR_PROCESS ? POLLIN : 0};
    int ready;
    do {
        ready = poll(&wait, 1, GONE_WAIT);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0)
        osb_log("processes of sandbox %s do not end", holder->name);
}

/* Ends the processes of one sandbox (`name` NULL: of all) and forgets them. */
static void end_processes(struct holder **list, const char *name)
{
    for (const struct holder *holder = *list; holder; holder = holder->next) {
        if (!name || strcmp(holder->name, name) == 0)
            kill_holder(holder);
    }
    for (struct holder **place = list; *place;) {
        struct holder *holder = *place;
        if (name && strcmp(holder->name, name) != 0) {
            place = &holder->next;
            continue;
        }
        wait_holder(holder);
        *place = holder->next;
        close(holder->fd);
        free(holder);
    }
}

static void remove_tree(int parent, const char *name)
{
    if (!osb_clean_tree(parent, name) && !osb_clean_tree_in_userns(parent, name))
        osb_log("%s could not be removed", name);
}

static void keep_holder(struct holder **list, const struct message *message, int fd)
{
    struct holder *holder = malloc(sizeof *holder);
    if (!holder) { /* what can't be looked after must not run */
        (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
        close(fd);
        return;
    }
    holder->kind = message->kind;
    holder->fd = fd;
    memcpy(holder->name, message->name, NAME_SIZE);
    holder->next = *list;
    *list = holder;
}

static void run(int link, int parent, const char *state, int dir, const struct osb_cgroups *cgroups)
{
    struct holder *list = NULL;
    struct message message;
    int fd;
    while (receive(link, &message, &fd)) {
        if (fd >= 0) {
            keep_holder(&list, &message, fd);
        } else if (message.kind == KIND_REMOVE) {
            end_processes(&list, message.name);
            osb_cgroups_remove(cgroups, message.name);
            remove_tree(dir, message.name);
        }
    }
    end_processes(&list, NULL);
    osb_cgroups_remove(cgroups, NULL);
    remove_tree(parent, state);
}

bool osb_janitor_start(struct osb_janitor *janitor, int parent, const char *state, int dir,
                       const struct osb_cgroups *cgroups)
{
    int link[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        close(link[0]);
        (void)prctl(PR_SET_NAME, "osb-janitor");
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
            dup2(null, fd);
        run(link[1], parent, state, dir, cgroups);
        _exit(0);
    }
    close(link[1]);
    if (pid < 0) {
        close(link[0]);
        return false;
    }
    janitor->link = link[0];
    janitor->pid = pid;
    return true;
}
