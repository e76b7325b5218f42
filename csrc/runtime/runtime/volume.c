#include "runtime/runtime/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LONGEST_NAME 63
#define LONGEST_CLAIM 253

/* Sets the error; always false. */
static __attribute__((format(printf, 3, 4))) bool fail(struct osb_rule_error *error, const char *code,
                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    error->code = code;
    return false;
}

/* ---- names and paths ---- */

/* Small letters, digits and inner hyphens. */
static bool is_label(const char *text)
{
    const size_t len = strlen(text);
    return len > 0 && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len && text[0] != '-' &&
           text[len - 1] != '-';
}

static bool has_dots(const char *path)
{
    for (const char *part = path; *part; part += strspn(part, "/")) {
        const size_t len = strcspn(part, "/");
        if (len == 2 && memcmp(part, "..", 2) == 0)
            return true;
        part += len;
    }
    return false;
}

/* A copy without needless slashes and "." parts, with a slash in front of each part; "" is the root. NULL: no memory.
 */
static char *normalize(const char *path)
{
    char *out = malloc(strlen(path) + 2);
    size_t used = 0;
    for (const char *part = path; out && *part;) {
        part += strspn(part, "/");
        const size_t len = strcspn(part, "/");
        if (len > 0 && !(len == 1 && *part == '.')) {
            out[used++] = '/';
            memcpy(out + used, part, len);
            used += len;
        }
        part += len;
    }
    if (out)
        out[used] = '\0';
    return out;
}

/* `path` is `top` or below it; both normalized. */
static bool is_below(const char *path, const char *top)
{
    const size_t len = strlen(top);
    return strncmp(path, top, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

/* The sandbox's own parts, which no volume may cover. */
static bool is_reserved(const char *target)
{
    static const char *const names[] = {"/usr", "/bin",  "/sbin", "/lib", "/lib32",        "/lib64", "/libx32",
                                        "/etc", "/proc", "/dev",  "/sys", "/.opensandbox", NULL};
    for (size_t i = 0; names[i]; i++) {
        if (is_below(target, names[i]))
            return true;
    }
    return *target == '\0';
}

/* ---- directories ---- */

/* Opens a path below `dir`, never out of it; -1 with errno. */
static int open_beneath(int dir, const char *path)
{
    const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    int fd;
    int tries = 8; /* a rename at the same moment */
    do {
        fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    } while (fd < 0 && errno == EAGAIN && --tries > 0);
    return fd;
}

/* As above, for a normalized path; makes the directories that are missing, with the owner of the one that they are
 * made in, when `make`. */
static int reach(int dir, const char *path, bool make)
{
    if (*path == '\0')
        return fcntl(dir, F_DUPFD_CLOEXEC, 0);
    int fd = open_beneath(dir, path + 1);
    if (fd >= 0 || errno != ENOENT || !make)
        return fd;
    const char *name = strrchr(path, '/');
    char *above = strndup(path, (size_t)(name - path));
    int parent = above ? reach(dir, above, true) : -1; /* paths that openat2 takes have at most 2048 parts */
    free(above);
    if (parent < 0)
        return -1;
    struct stat owner;
    bool made = fstat(parent, &owner) == 0 &&
                (mkdirat(parent, name + 1, 0755) != 0 || geteuid() != 0 ||
                 fchownat(parent, name + 1, owner.st_uid, owner.st_gid, AT_SYMLINK_NOFOLLOW) == 0);
    fd = made ? open_beneath(parent, name + 1) : -1;
    int code = errno;
    close(parent);
    errno = code;
    return fd;
}

static bool tell_host(struct osb_rule_error *error, const char *path, int code)
{
    if (code == EXDEV || code == ELOOP)
        return fail(error, "VOLUME::HOST_PATH_NOT_ALLOWED", "Host path '%.200s' leads out of the allowed directory.",
                    path);
    if (code == ENOENT)
        return fail(error, "VOLUME::HOST_PATH_NOT_FOUND", "There is no host path '%.200s'.", path);
    if (code == ENOTDIR)
        return fail(error, "VOLUME::INVALID_HOST_PATH", "Host path '%.200s' is no directory.", path);
    return fail(error, "VOLUME::INVALID_HOST_PATH", "Host path '%.200s' can't be opened: %s.", path, strerror(code));
}

bool osb_volumes_allow(struct osb_allowed_paths *allowed, const char *path)
{
    if (*path != '/' || has_dots(path) || allowed->count == OSB_MAX_ALLOWED_PATHS)
        return false;
    char *top = normalize(path);
    if (top)
        allowed->path[allowed->count++] = top;
    return top != NULL;
}

/* Opens a host directory below one of the allowed ones. */
static int open_host(const char *path, bool make, const struct osb_allowed_paths *allowed, struct osb_rule_error *error)
{
    if (*path != '/' || has_dots(path)) {
        (void)fail(error, "VOLUME::INVALID_HOST_PATH", "Host path '%.200s' must be absolute and without '..'.", path);
        return -1;
    }
    char *wanted = normalize(path);
    int fd = -1;
    bool found = false;
    for (size_t i = 0; wanted && i < allowed->count && !found; i++) {
        found = is_below(wanted, allowed->path[i]);
        int top = found ? open(*allowed->path[i] ? allowed->path[i] : "/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
        if (!found)
            continue;
        if (top >= 0)
            fd = reach(top, wanted + strlen(allowed->path[i]), make);
        if (fd < 0)
            (void)tell_host(error, path, errno);
        if (top >= 0)
            close(top);
    }
    if (!found)
        (void)fail(error, "VOLUME::HOST_PATH_NOT_ALLOWED",
                   "Host path '%.200s' is not under any allowed directory. Allow it with --allow-host-path DIR, or for "
                   "an embedded runtime with OPENSANDBOX_ALLOWED_HOST_PATHS=DIR[:DIR]... in its owner's environment.",
                   path);
    free(wanted);
    return fd;
}

/* Opens the directory of a named volume; volume->ends: it may be removed with its sandbox, which stays so only if it
 * was made here. */
static int open_named(struct osb_volume *volume, bool make, const struct osb_state *state, struct osb_rule_error *error)
{
    int all = openat(state->keep, "volumes", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool made = all >= 0 && make && mkdirat(all, volume->claim, 0700) == 0;
    int own = all < 0 ? -1 : openat(all, volume->claim, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int fd = -1;
    if (own >= 0) {
        if (mkdirat(own, "data", 0755) != 0 || fchmodat(own, "data", 0755, 0) == 0)
            fd = openat(own, "data", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (own < 0 && errno == ENOENT)
        (void)fail(error, "VOLUME::PVC_NOT_FOUND", "There is no volume '%s', and createIfNotExists is false.",
                   volume->claim);
    else if (fd < 0)
        (void)fail(error, "VOLUME::PVC_INSPECT_FAILED", "Volume '%s' can't be opened: %s.", volume->claim,
                   strerror(errno));
    volume->ends = volume->ends && made;
    if (own >= 0)
        close(own);
    if (all >= 0)
        close(all);
    return fd;
}

/* ---- the request ---- */

static bool malformed(struct osb_rule_error *error, const char *message)
{
    return fail(error, NULL, "%s", message);
}

/* Not NULL, and a string without NUL bytes. */
static const char *text_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    const char *text = json_string_value(value);
    return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static bool is_unset(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool flag_of(const json_t *object, const char *name, bool missing)
{
    const json_t *value = json_object_get(object, name);
    return is_unset(value) ? missing : json_is_true(value);
}

/* Name and place; false with the error. */
static bool read_place(const struct osb_volumes *volumes, struct osb_volume *volume, const json_t *given,
                       struct osb_rule_error *error)
{
    const char *name = text_of(given, "name");
    const char *target = text_of(given, "mountPath");
    if (!name || !target)
        return malformed(error, "Input should have the strings name and mountPath");
    if (strlen(name) > LONGEST_NAME || !is_label(name))
        return fail(error, "VOLUME::INVALID_NAME",
                    "Volume name '%.100s' is not a valid DNS label. Must be lowercase alphanumeric with optional "
                    "hyphens, at most 63 characters.",
                    name);
    if (*target != '/' || has_dots(target) || strlen(target) >= PATH_MAX / 2)
        return fail(error, "VOLUME::INVALID_MOUNT_PATH",
                    "Mount path '%.200s' must be an absolute path starting with '/', without '..'.", target);
    volume->target = normalize(target);
    if (!volume->target)
        return fail(error, "GENERAL::UNKNOWN_ERROR", "Memory is out.");
    if (is_reserved(volume->target))
        return fail(error, "VOLUME::INVALID_MOUNT_PATH", "Mount path '%.200s' is the sandbox's own.", target);
    for (size_t i = 0; i < volumes->count; i++) {
        if (is_below(volume->target, volumes->list[i].target) || is_below(volumes->list[i].target, volume->target))
            return fail(error, "VOLUME::INVALID_MOUNT_PATH",
                        "Mount path '%.200s' is that of another volume, or within.", target);
    }
    return true;
}

/* Opens what the volume's backend names; -1 with the error. */
static int open_backend(struct osb_volume *volume, const json_t *given, bool make,
                        const struct osb_allowed_paths *allowed, const struct osb_state *state,
                        struct osb_rule_error *error)
{
    const json_t *host = json_object_get(given, "host");
    const json_t *named = json_object_get(given, "pvc");
    if (!is_unset(host)) {
        const char *path = text_of(host, "path");
        if (path)
            return open_host(path, make, allowed, error);
        (void)malformed(error, "Input should have the string host.path");
        return -1;
    }
    const char *claim = text_of(named, "claimName");
    if (!claim) {
        (void)malformed(error, "Input should have the string pvc.claimName");
        return -1;
    }
    if (strlen(claim) > LONGEST_CLAIM || !is_label(claim)) {
        (void)fail(error, "VOLUME::INVALID_PVC_NAME",
                   "PVC claim name '%.100s' is not a valid Kubernetes resource name.", claim);
        return -1;
    }
    volume->claim = strdup(claim);
    volume->ends = flag_of(named, "deleteOnSandboxTermination", false);
    if (!volume->claim) {
        (void)fail(error, "GENERAL::UNKNOWN_ERROR", "Memory is out.");
        return -1;
    }
    return open_named(volume, flag_of(named, "createIfNotExists", true), state, error);
}

/* Goes from the backend's directory to that of subPath. False with the error. */
static bool descend(struct osb_volume *volume, const json_t *given, struct osb_rule_error *error)
{
    if (is_unset(json_object_get(given, "subPath")))
        return true;
    const char *path = text_of(given, "subPath");
    if (!path)
        return malformed(error, "Input should have subPath as a string");
    if (*path == '/' || has_dots(path))
        return fail(error, "VOLUME::INVALID_SUB_PATH", "SubPath '%.200s' must be a relative path without '..'.", path);
    char *below = normalize(path);
    int fd = below ? reach(volume->fd, below, !volume->read_only) : -1;
    free(below);
    if (fd < 0)
        return fail(error, "VOLUME::INVALID_SUB_PATH", "SubPath '%.200s' %s.", path,
                    errno == EXDEV || errno == ELOOP ? "leads out of the volume"
                    : errno == ENOTDIR               ? "is no directory"
                                                     : "can't be opened in the volume");
    close(volume->fd);
    volume->fd = fd;
    return true;
}

static bool open_one(struct osb_volumes *volumes, const json_t *given, const struct osb_allowed_paths *allowed,
                     const struct osb_state *state, struct osb_rule_error *error)
{
    struct osb_volume *volume = &volumes->list[volumes->count];
    const int backends = !is_unset(json_object_get(given, "host")) + !is_unset(json_object_get(given, "pvc")) +
                         !is_unset(json_object_get(given, "ossfs"));
    volume->fd = -1;
    volume->read_only = flag_of(given, "readOnly", false);
    bool placed = read_place(volumes, volume, given, error);
    volumes->count++; /* from here on it is freed with the others */
    if (!placed)
        return false;
    if (backends != 1)
        return fail(error, "VOLUME::INVALID_BACKEND",
                    "Volume '%s' must specify exactly one backend (host, pvc, ossfs), but %d were.",
                    text_of(given, "name"), backends);
    if (!is_unset(json_object_get(given, "ossfs")))
        return fail(error, "VOLUME::UNSUPPORTED_BACKEND",
                    "This runtime mounts no OSS buckets; its volumes are host and pvc.");
    volume->fd = open_backend(volume, given, !volume->read_only, allowed, state, error);
    return volume->fd >= 0 && descend(volume, given, error);
}

static bool is_named_before(const json_t *given, size_t index)
{
    const char *name = text_of(json_array_get(given, index), "name");
    for (size_t i = 0; i < index && name; i++) {
        const char *other = text_of(json_array_get(given, i), "name");
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

bool osb_volumes_open(struct osb_volumes *volumes, const json_t *given, const struct osb_allowed_paths *allowed,
                      const struct osb_state *state, struct osb_rule_error *error)
{
    const size_t count = json_array_size(given);
    *volumes = (struct osb_volumes){0};
    if (count == 0)
        return true;
    if (count > OSB_MAX_VOLUMES)
        return fail(error, "SANDBOX::INVALID_PARAMETER", "A sandbox has at most %d volumes.", OSB_MAX_VOLUMES);
    volumes->list = calloc(count, sizeof *volumes->list);
    if (!volumes->list)
        return fail(error, "GENERAL::UNKNOWN_ERROR", "Memory is out.");
    bool opened = true;
    for (size_t i = 0; i < count && opened; i++) {
        opened =
            !is_named_before(given, i) || fail(error, "VOLUME::DUPLICATE_NAME",
                                               "Duplicate volume name '%.100s'. Each volume must have a unique name.",
                                               text_of(json_array_get(given, i), "name"));
        opened = opened && open_one(volumes, json_array_get(given, i), allowed, state, error);
    }
    if (!opened)
        osb_volumes_close(volumes);
    return opened;
}

void osb_volumes_release(struct osb_volumes *volumes)
{
    for (size_t i = 0; i < volumes->count; i++) {
        if (volumes->list[i].fd >= 0)
            close(volumes->list[i].fd);
        volumes->list[i].fd = -1;
    }
}

void osb_volumes_close(struct osb_volumes *volumes)
{
    osb_volumes_release(volumes);
    for (size_t i = 0; i < volumes->count; i++) {
        free(volumes->list[i].target);
        free(volumes->list[i].claim);
    }
    free(volumes->list);
    *volumes = (struct osb_volumes){0};
}
