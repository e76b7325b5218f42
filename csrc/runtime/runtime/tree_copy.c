#include "runtime/runtime/tree_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DEPTH 400 /* two descriptors per level are held */
#define NOBODY 65534U

/* ---- owners ---- */

/* The id inside that stands for one of the machine; NOBODY when there is none. */
static uint32_t to_inside(const struct osb_id_map *map, uint32_t outside)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct osb_id_line *line = &map->line[i];
        if (outside >= line->outside && outside - line->outside < line->count)
            return line->inside + (outside - line->outside);
    }
    return NOBODY;
}

static uint32_t to_outside(const struct osb_id_map *map, uint32_t inside)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct osb_id_line *line = &map->line[i];
        if (inside >= line->inside && inside - line->inside < line->count)
            return line->outside + (inside - line->inside);
    }
    return map->line[0].outside;
}

static uint32_t translate(uint32_t id, const struct osb_id_map *from, const struct osb_id_map *to)
{
    uint32_t inside = from ? to_inside(from, id) : id;
    return to ? to_outside(to, inside) : inside;
}

/* Gives a new file (opened, or a link by its name) owner, permissions and times. Owners that can't be given, in a
 * namespace of one id, stay the copier's. */
static bool finish(const struct osb_tree_copy *copy, int dir, const char *name, const struct stat *info)
{
    const uid_t uid = translate(info->st_uid, copy->owner_from ? &copy->owner_from->uids : NULL,
                                copy->owner_to ? &copy->owner_to->uids : NULL);
    const gid_t gid = translate(info->st_gid, copy->owner_from ? &copy->owner_from->gids : NULL,
                                copy->owner_to ? &copy->owner_to->gids : NULL);
    const struct timespec times[2] = {info->st_atim, info->st_mtim};
    if (fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) != 0 && errno != EINVAL)
        return false;
    return (S_ISLNK(info->st_mode) || fchmodat(dir, name, info->st_mode & 07777, 0) == 0) &&
           utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- files ---- */

/* Copies the parts that hold data; holes stay holes. */
static bool copy_data(int in, int out, off_t size)
{
    if (ioctl(out, FICLONE, in) == 0)
        return true;
    off_t start = lseek(in, 0, SEEK_DATA);
    while (start >= 0 && start < size) {
        off_t end = lseek(in, start, SEEK_HOLE);
        if (end < 0 || lseek(out, start, SEEK_SET) != start)
            return false;
        while (start < end) {
            const off_t left = end - start;
            ssize_t done = sendfile(out, in, &start, left < ((off_t)1 << 24) ? (size_t)left : (size_t)1 << 24);
            if (done <= 0)
                return false;
        }
        start = lseek(in, end, SEEK_DATA);
    }
    return (start >= 0 || errno == ENXIO) && ftruncate(out, size) == 0;
}

static bool copy_file(int from, int to, const char *name)
{
    int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat info;
    if (in < 0)
        return false;
    int out = -1;
    bool copied = false;
    if (fstat(in, &info) == 0 && S_ISREG(info.st_mode))
        out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out >= 0)
        copied = copy_data(in, out, info.st_size);
    int code = errno;
    close(in);
    if (out >= 0 && close(out) != 0 && copied) {
        code = errno;
        copied = false;
    }
    errno = code;
    return copied;
}

static bool copy_link(int from, int to, const char *name)
{
    char target[PATH_MAX];
    ssize_t len = readlinkat(from, name, target, sizeof target - 1);
    if (len < 0)
        return false;
    target[len] = '\0';
    return symlinkat(target, to, name) == 0;
}

/* ---- trees ---- */

static bool copy_entry(struct osb_tree_copy *copy, int from, int to, const char *name, unsigned int depth);

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Copies what is in a directory; takes `from`. */
static bool copy_entries(struct osb_tree_copy *copy, int from, int to, unsigned int depth)
{
    DIR *dir = fdopendir(from);
    if (!dir) {
        close(from);
        return false;
    }
    bool copied = true;
    const struct dirent *entry;
    while (copied && (errno = 0, entry = readdir(dir)) != NULL)
        copied = is_dots(entry->d_name) || copy_entry(copy, dirfd(dir), to, entry->d_name, depth);
    int code = errno;
    (void)closedir(dir);
    errno = code;
    return copied && code == 0;
}

static bool copy_dir(struct osb_tree_copy *copy, int from, int to, const char *name, unsigned int depth)
{
    if (depth == MAX_DEPTH) {
        errno = ELOOP;
        return false;
    }
    if (mkdirat(to, name, 0700) != 0)
        return false;
    int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int out = in < 0 ? -1 : openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (out < 0) {
        if (in >= 0)
            close(in);
        return false;
    }
    bool copied = copy_entries(copy, in, out, depth + 1);
    int code = errno;
    close(out);
    errno = code;
    return copied;
}

/* Sockets have no use without their process, and devices can't be made inside: both are left out. */
static bool copy_entry(struct osb_tree_copy *copy, int from, int to, const char *name, unsigned int depth)
{
    struct stat info;
    bool copied = fstatat(from, name, &info, AT_SYMLINK_NOFOLLOW) == 0;
    bool made = true;
    if (copied && S_ISDIR(info.st_mode))
        copied = copy_dir(copy, from, to, name, depth);
    else if (copied && S_ISREG(info.st_mode))
        copied = copy_file(from, to, name);
    else if (copied && S_ISLNK(info.st_mode))
        copied = copy_link(from, to, name);
    else if (copied && S_ISFIFO(info.st_mode))
        copied = mkfifoat(to, name, 0600) == 0;
    else
        made = false;
    if (copied && made)
        copied = finish(copy, to, name, &info);
    if (!copied && !*copy->failed) {
        copy->code = errno;
        snprintf(copy->failed, sizeof copy->failed, "%s", name);
    }
    return copied;
}

bool osb_tree_copy(struct osb_tree_copy *copy, const char *name)
{
    *copy->failed = '\0';
    return copy_entry(copy, copy->from, copy->to, name, 0);
}
