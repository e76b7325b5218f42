#include "runtime/runtime/image.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/runtime/args.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/path.h"

#define HOST_NAME "sandbox"
#define COPY_LIMIT ((off_t)1 << 20) /* bytes of a file of /etc that is copied */

/* Files of /etc written here, so that nothing of the machine's users and names shows. */
static const struct {
    const char *name;
    const char *text;
} own_files[] = {
    {"passwd", "root:x:0:0:root:/root:/bin/bash\n"
               "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
               "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n"},
    {"hosts", "127.0.0.1 localhost " HOST_NAME "\n::1 localhost ip6-localhost ip6-loopback\n"},
    {"hostname", HOST_NAME "\n"},
    {"nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\n"
                      "services: files\n"},
    {"shells", "/bin/sh\n/bin/bash\n"},
};

/* Patterns of what is taken from the machine's /etc, as far as it is there and readable for all: settings of programs,
 * certificates of authorities; nothing with accounts, names, keys or addresses. */
static const char *const taken[] = {"alternatives",
                                    "bash.bashrc",
                                    "ca-certificates.conf",
                                    "debian_version",
                                    "fonts",
                                    "inputrc",
                                    "java-*",
                                    "ld.so.cache",
                                    "ld.so.conf",
                                    "ld.so.conf.d",
                                    "localtime",
                                    "lsb-release",
                                    "magic",
                                    "magic.mime",
                                    "mime.types",
                                    "networks",
                                    "os-release",
                                    "perl",
                                    "profile",
                                    "protocols",
                                    "python3",
                                    "python3.*",
                                    "redhat-release",
                                    "rpc",
                                    "services",
                                    "ssl/certs",
                                    "ssl/openssl.cnf",
                                    "terminfo",
                                    "timezone",
                                    "pki/ca-trust/extracted",
                                    "pki/tls/certs",
                                    "pki/tls/openssl.cnf"};

/* Directories above a path within `dir`; false with errno. */
static bool make_parents(int dir, const char *path)
{
    char part[PATH_MAX];
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        if ((mkdirat(dir, part, 0755) != 0 && errno != EEXIST) || fchmodat(dir, part, 0755, 0) != 0)
            return false;
    }
    return true;
}

/* Takes one file or directory of /etc over: files of /usr as links, other small ones as copies, directories as the
 * place that the machine's is mounted on. False when it can't be taken. */
static bool take(int etc, const char *source)
{
    const char *name = source + strlen("/etc/");
    struct stat info;
    char target[PATH_MAX];
    if (stat(source, &info) != 0 || !realpath(source, target) || !make_parents(etc, name))
        return false;
    if (S_ISREG(info.st_mode) && strncmp(target, "/usr/", strlen("/usr/")) == 0)
        return symlinkat(target, etc, name) == 0;
    if (S_ISREG(info.st_mode))
        return (info.st_mode & S_IROTH) && info.st_size <= COPY_LIMIT && osb_path_copy_file(target, etc, name, 0644);
    return S_ISDIR(info.st_mode) && (info.st_mode & S_IXOTH) && mkdirat(etc, name, 0755) == 0 &&
           fchmodat(etc, name, 0755, 0) == 0;
}

static bool fill_etc(int etc)
{
    for (size_t i = 0; i < sizeof own_files / sizeof *own_files; i++) {
        if (!osb_path_write_file(etc, own_files[i].name, own_files[i].text, strlen(own_files[i].text), 0644))
            return false;
    }
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        char pattern[PATH_MAX];
        glob_t found;
        if (!osb_path_join(pattern, sizeof pattern, "/etc", taken[i]) || glob(pattern, 0, NULL, &found) != 0)
            continue;
        for (size_t k = 0; k < found.gl_pathc; k++) {
            if (!take(etc, found.gl_pathv[k]))
                osb_log("%s is left out", found.gl_pathv[k]);
        }
        globfree(&found);
    }
    if (!osb_path_write_file(etc, "resolv.conf", "", 0, 0644))
        return false;
    return symlinkat("/proc/self/mounts", etc, "mtab") == 0;
}

bool osb_image_prepare(const struct osb_state *state, const char *execd, char *error, size_t size)
{
    if (!osb_path_copy_file(execd, state->dir, "execd", 0755)) {
        snprintf(error, size, "opensandbox-execd can't be read at %s: %s; set OPENSANDBOX_EXECD to its path", execd,
                 strerror(errno));
        return false;
    }
    int etc = -1;
    if (mkdirat(state->dir, "etc", 0755) == 0 && fchmodat(state->dir, "etc", 0755, 0) == 0)
        etc = openat(state->dir, "etc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool filled = etc >= 0 && fill_etc(etc);
    if (!filled)
        snprintf(error, size, "%s/etc can't be written: %s", state->path, strerror(errno));
    if (etc >= 0)
        close(etc);
    return filled;
}

/* /bin, /lib and the like: links into /usr, or directories of their own on older systems. */
static bool mount_system_dirs(struct osb_buf *args)
{
    static const char *const names[] = {"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
    bool fits = osb_args_add(args, "--ro-bind", "/usr", "/usr", NULL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char target[PATH_MAX];
        struct stat info;
        if (lstat(names[i], &info) != 0)
            continue;
        ssize_t len = S_ISLNK(info.st_mode) ? readlink(names[i], target, sizeof target - 1) : -1;
        if (len > 0) {
            target[len] = '\0';
            fits = fits && osb_args_add(args, "--symlink", target, names[i], NULL);
        } else if (S_ISDIR(info.st_mode)) {
            fits = fits && osb_args_add(args, "--ro-bind", names[i], names[i], NULL);
        }
    }
    return fits;
}

/* The machine's directories on the empty ones that fill_etc left for them. */
static bool mount_etc_dirs(const struct osb_state *state, struct osb_buf *args)
{
    bool fits = true;
    for (size_t i = 0; i < sizeof taken / sizeof *taken && fits; i++) {
        char pattern[PATH_MAX + sizeof "/etc/pki/tls/openssl.cnf"];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/etc/%s", state->path, taken[i]);
        if (glob(pattern, GLOB_ONLYDIR, NULL, &found) != 0)
            continue;
        for (size_t k = 0; k < found.gl_pathc; k++) {
            struct stat info;
            const char *inside = found.gl_pathv[k] + strlen(state->path);
            if (lstat(found.gl_pathv[k], &info) == 0 && S_ISDIR(info.st_mode))
                fits = fits && osb_args_add(args, "--ro-bind", inside, inside, NULL);
        }
        globfree(&found);
    }
    return fits;
}

bool osb_image_mounts(const struct osb_state *state, bool host_network, struct osb_buf *args)
{
    char etc[PATH_MAX];
    char execd[PATH_MAX];
    return osb_path_join(etc, sizeof etc, state->path, "etc") &&
           osb_path_join(execd, sizeof execd, state->path, "execd") && mount_system_dirs(args) &&
           osb_args_add(args, "--ro-bind", etc, "/etc", "--ro-bind", execd, OSB_IMAGE_EXECD, NULL) &&
           mount_etc_dirs(state, args) &&
           (!host_network || osb_args_add(args, "--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf", NULL));
}
