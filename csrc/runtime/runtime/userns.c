#include "runtime/runtime/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buf.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/path.h"

/* All processes of one sandbox together, whatever uids they take; an ordinary user's own processes count in. */
#define PROCESSES_AS_ROOT 2048
#define PROCESSES_AS_USER 16384

/* Says why the kernel refused, for the person who can change it. */
static void explain(int code, bool root, char *error, size_t size)
{
    char value[32];
    osb_path_read_line("/proc/sys/kernel/unprivileged_userns_clone", value, sizeof value);
    if (!root && strcmp(value, "0") == 0) {
        snprintf(error, size,
                 "user namespaces are forbidden for ordinary users: set sysctl kernel.unprivileged_userns_clone=1");
        return;
    }
    osb_path_read_line("/proc/sys/user/max_user_namespaces", value, sizeof value);
    if (strcmp(value, "0") == 0) {
        snprintf(error, size, "user namespaces are forbidden: set sysctl user.max_user_namespaces to 10000 or so");
        return;
    }
    osb_path_read_line("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", value, sizeof value);
    if (!root && strcmp(value, "1") == 0) {
        snprintf(error, size,
                 "AppArmor forbids user namespaces to ordinary users: set sysctl "
                 "kernel.apparmor_restrict_unprivileged_userns=0");
        return;
    }
    if (code == EPERM)
        snprintf(
            error, size,
            "user namespaces are forbidden here; in a container, allow them (its seccomp profile or capabilities), "
            "in a chroot they do not exist");
    else
        snprintf(error, size, "user namespaces can't be made: %s", strerror(code));
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool written = osb_path_write_all(fd, text, strlen(text));
    int code = errno;
    close(fd);
    errno = code;
    return written;
}

static void report(int fd, int code)
{
    (void)osb_path_write_all(fd, &code, sizeof code);
}

/* Reads an errno that the other side reported; EPIPE when it is gone. */
static int receive(int fd)
{
    int code;
    ssize_t len;
    do {
        len = read(fd, &code, sizeof code);
    } while (len < 0 && errno == EINTR);
    return len == (ssize_t)sizeof code ? code : EPIPE;
}

/* The process that the namespace is made from: becomes the identity, makes the namespace, waits for its maps, tries it,
 * forbids further ones in it. Reports an errno after each of the two steps. */
static void run_maker(const struct osb_identity *identity, int link)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NPROC, &limit) == 0) {
        rlim_t most = identity->switches ? PROCESSES_AS_ROOT : PROCESSES_AS_USER;
        if (limit.rlim_max < most)
            most = limit.rlim_max;
        (void)setrlimit(RLIMIT_NPROC, &(struct rlimit){.rlim_cur = most, .rlim_max = most});
    }
    if (identity->switches && (setgroups(0, NULL) != 0 || setresgid(identity->gid, identity->gid, identity->gid) != 0 ||
                               setresuid(identity->uid, identity->uid, identity->uid) != 0)) {
        report(link, errno);
        return;
    }
    /* The maps of an undumpable process can't be written by its own user. */
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0 || unshare(CLONE_NEWUSER) != 0) {
        report(link, errno);
        return;
    }
    report(link, 0);
    if (receive(link) != 0)
        return;
    (void)write_text("/proc/sys/user/max_user_namespaces", "0\n"); /* read-only in some containers */
    /* AppArmor lets the namespace be made, but gives no capabilities in it. */
    report(link, unshare(CLONE_NEWNS) == 0 ? 0 : errno);
}

/* Runs newuidmap or newgidmap; false with a sentence. */
static bool run_helper(const char *name, pid_t target, const struct osb_id_map *map, char *error, size_t size)
{
    char program[PATH_MAX];
    char numbers[1 + 3 * OSB_ID_LINES][16];
    char *argv[3 + 3 * OSB_ID_LINES] = {0};
    size_t argc = 0;
    if (!osb_path_find_program(name, program, sizeof program)) {
        snprintf(error, size, "%s was not found: install it (Debian: uidmap)", name);
        return false;
    }
    argv[argc++] = program;
    snprintf(numbers[0], sizeof numbers[0], "%ld", (long)target);
    argv[argc++] = numbers[0];
    for (size_t i = 0; i < map->count; i++) {
        const uint32_t values[3] = {map->line[i].inside, map->line[i].outside, map->line[i].count};
        for (size_t k = 0; k < 3; k++) {
            snprintf(numbers[argc - 1], sizeof numbers[0], "%" PRIu32, values[k]);
            argv[argc] = numbers[argc - 1];
            argc++;
        }
    }
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0) {
            dup2(null, STDOUT_FILENO);
            dup2(null, STDERR_FILENO);
        }
        execve(program, argv, (char *[]){NULL});
        _exit(127);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    snprintf(error, size, "%s refused the ids that /etc/subuid and /etc/subgid grant; is it set-user-ID root?", name);
    return false;
}

static bool write_map(pid_t pid, const char *file, const struct osb_id_map *map)
{
    char path[64];
    struct osb_buf text = {0};
    bool fits = true;
    for (size_t i = 0; i < map->count; i++)
        fits = fits && osb_buf_printf(&text, "%" PRIu32 " %" PRIu32 " %" PRIu32 "\n", map->line[i].inside,
                                      map->line[i].outside, map->line[i].count);
    fits = fits && osb_buf_append_byte(&text, '\0');
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, file);
    bool written = fits && write_text(path, osb_buf_data(&text));
    osb_buf_free(&text);
    return written;
}

static bool write_maps(pid_t pid, const struct osb_identity *identity, char *error, size_t size)
{
    if (identity->uses_helper)
        return run_helper("newuidmap", pid, &identity->uids, error, size) &&
               run_helper("newgidmap", pid, &identity->gids, error, size);
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/setgroups", (long)pid);
    if ((identity->switches || write_text(path, "deny")) && write_map(pid, "uid_map", &identity->uids) &&
        write_map(pid, "gid_map", &identity->gids))
        return true;
    explain(errno, identity->switches, error, size);
    return false;
}

/* Talks with the maker; the namespace's descriptor or -1 with a sentence. */
static int finish(pid_t pid, int link, const struct osb_identity *identity, char *error, size_t size)
{
    int code = receive(link);
    if (code != 0) {
        explain(code, identity->switches, error, size);
        return -1;
    }
    if (!write_maps(pid, identity, error, size))
        return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/ns/user", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    code = errno;
    report(link, 0);
    if (fd >= 0)
        code = receive(link);
    if (fd < 0 || code != 0) {
        explain(code, identity->switches, error, size);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

int osb_userns_make(const struct osb_identity *identity, char *error, size_t size)
{
    int link[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) != 0) {
        snprintf(error, size, "no descriptors are left: %s", strerror(errno));
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(link[0]);
        run_maker(identity, link[1]);
        _exit(0);
    }
    close(link[1]);
    int fd = -1;
    if (pid < 0)
        snprintf(error, size, "no process can be made: %s", strerror(errno));
    else
        fd = finish(pid, link[0], identity, error, size);
    close(link[0]); /* the maker ends at the latest now */
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (fd < 0)
        osb_log("no user namespace: %s", error);
    return fd;
}
