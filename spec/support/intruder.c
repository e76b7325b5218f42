/* What a hostile program inside a sandbox tries. Used by spec/escape: `intruder WHAT [ARGUMENT]...` prints what it
 * achieved, one line each, and nothing else. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY_NAME "osb-secret"
#define MOST_CHILDREN 8192

/* ---- privileges ---- */

static bool opens(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool remount_usr(void)
{
    return mount(NULL, "/usr", NULL, MS_REMOUNT | MS_BIND, NULL) == 0 ||
           mount(NULL, "/usr", NULL, MS_REMOUNT, NULL) == 0;
}

static bool unmount_etc(void)
{
    return umount2("/etc", MNT_DETACH) == 0;
}

static bool mount_tmpfs(void)
{
    return mount("none", "/mnt", "tmpfs", 0, NULL) == 0;
}

static bool new_user_namespace(void)
{
    return unshare(CLONE_NEWUSER) == 0;
}

static bool new_mount_namespace(void)
{
    return unshare(CLONE_NEWNS) == 0;
}

static bool change_root(void)
{
    return chroot("/workspace") == 0;
}

static bool write_core_pattern(void)
{
    return opens("/proc/sys/kernel/core_pattern", O_WRONLY);
}

static bool write_sysrq(void)
{
    return opens("/proc/sysrq-trigger", O_WRONLY);
}

static bool make_device(void)
{
    return mknod("/workspace/device", S_IFBLK | 0600, makedev(8, 0)) == 0;
}

static bool read_kernel_memory(void)
{
    return opens("/dev/mem", O_RDONLY) || opens("/proc/kcore", O_RDONLY) || opens("/dev/kmsg", O_RDONLY);
}

static bool trace_first_process(void)
{
    return ptrace(PTRACE_SEIZE, 1, NULL, NULL) == 0;
}

static bool read_first_process(void)
{
    return opens("/proc/1/mem", O_RDONLY) || opens("/proc/1/environ", O_RDONLY) || opens("/proc/1/maps", O_RDONLY);
}

static bool type_into_terminal(void)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    char byte = '\n';
    return fd >= 0 && ioctl(fd, TIOCSTI, &byte) == 0;
}

static bool raise_process_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NPROC, &limit) != 0)
        return false;
    limit.rlim_max += 1;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NPROC, &limit) == 0;
}

static bool allow_user_namespaces(void)
{
    int fd = open("/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, "9", 1) == 1;
}

static bool find_key(void)
{
    return syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, -3 /* session keyring */, "user", KEY_NAME, 0) >= 0;
}

static const struct {
    const char *name;
    bool (*succeeds)(void);
} deeds[] = {
    {"remounted /usr", remount_usr},
    {"unmounted /etc", unmount_etc},
    {"mounted a tmpfs", mount_tmpfs},
    {"changed the root", change_root},
    {"made a mount namespace", new_mount_namespace},
    {"opened core_pattern for writing", write_core_pattern},
    {"opened sysrq-trigger for writing", write_sysrq},
    {"made a device", make_device},
    {"opened kernel memory", read_kernel_memory},
    {"traced the first process", trace_first_process},
    {"opened the first process's memory", read_first_process},
    {"typed into a terminal", type_into_terminal},
    {"raised the process limit", raise_process_limit},
    {"allowed user namespaces", allow_user_namespaces},
    {"made a user namespace", new_user_namespace},
    {"found a key of the host", find_key},
};

static int do_deeds(void)
{
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        if (deeds[i].succeeds())
            puts(deeds[i].name);
    }
    return 0;
}

/* ---- stealing sockets ---- */

static bool connects(int fd, const char *port)
{
    const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    const struct sockaddr_in target = {.sin_family = AF_INET,
                                       .sin_port = htons((uint16_t)strtol(port, NULL, 10)),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)connect(fd, &nowhere, sizeof nowhere); /* a listening socket becomes an ordinary one */
    (void)fcntl(fd, F_SETFL, 0);
    return connect(fd, (const struct sockaddr *)&target, sizeof target) == 0;
}

/* Takes every socket of the process; tells whether one could be taken, and whether one reaches the port. */
static void steal_from(const char *whom, pid_t pid, const char *port)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    bool stolen = false;
    bool connected = false;
    for (int number = 0; number < 256 && process >= 0; number++) {
        int fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
        int listening = 0;
        socklen_t size = sizeof listening;
        if (fd < 0)
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening) {
            stolen = true;
            connected = connected || connects(fd, port);
        }
        close(fd);
    }
    if (stolen)
        printf("stole from %s\n", whom);
    if (connected)
        printf("connected with what %s had\n", whom);
}

/* A child with a listening socket shows that the theft as such works; the first process is what it is about. */
static int steal(const char *port)
{
    int ready[2];
    if (pipe(ready) != 0)
        return 1;
    pid_t child = fork();
    if (child == 0) {
        const struct sockaddr_in any = {.sin_family = AF_INET};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 1) != 0 ||
            write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    char byte;
    if (child < 0 || read(ready[0], &byte, 1) != 1)
        return 1;
    steal_from("a child", child, port);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    steal_from("execd", 1, port);
    return 0;
}

/* ---- many processes ---- */

/* In a process of its own, as `uid`: forks sleeping processes until the kernel refuses, and sends their number. */
static void multiply(uid_t uid, int report)
{
    size_t count = 0;
    if (uid == 0 || setresuid(uid, uid, uid) == 0) {
        while (count < MOST_CHILDREN) {
            pid_t pid = fork();
            if (pid < 0)
                break;
            if (pid == 0) {
                for (;;)
                    pause();
            }
            count++;
        }
    }
    if (write(report, &count, sizeof count) == (ssize_t)sizeof count)
        pause();
}

/* Makes as many processes as it can, as `uids` users one after the other; prints how many. */
static int bomb(const char *uids)
{
    const long most = strtol(uids, NULL, 10);
    size_t total = 0;
    int report[2];
    if (pipe(report) != 0 || (setpgid(0, 0) != 0 && getpgrp() != getpid()))
        return 1;
    for (long uid = 0; uid < most; uid++) {
        size_t count = 0;
        pid_t pid = fork();
        if (pid == 0) {
            multiply((uid_t)uid, report[1]);
            _exit(0);
        }
        if (pid > 0 && read(report[0], &count, sizeof count) == (ssize_t)sizeof count)
            total += count;
    }
    printf("%zu\n", total);
    (void)fflush(stdout);
    return kill(0, SIGKILL); /* all of its group, and itself */
}

/* ---- the host's side ---- */

/* Runs a command with a key in its session keyring. */
static int with_key(char **command)
{
    if (syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0 ||
        syscall(SYS_add_key, "user", KEY_NAME, "value", 5, -3 /* session keyring */) < 0)
        return 1;
    execvp(command[0], command);
    return 127;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "deeds") == 0)
        return do_deeds();
    if (argc == 3 && strcmp(argv[1], "steal") == 0)
        return steal(argv[2]);
    if (argc == 3 && strcmp(argv[1], "bomb") == 0)
        return bomb(argv[2]);
    if (argc > 2 && strcmp(argv[1], "with-key") == 0)
        return with_key(argv + 2);
    if (argc == 2 && strcmp(argv[1], "find-key") == 0)
        return find_key() ? 0 : 1;
    return 2;
}
