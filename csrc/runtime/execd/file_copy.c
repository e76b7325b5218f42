#include "file_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int osb_file_copy_bytes(int from, int to)
{
    ssize_t copied;
    while ((copied = sendfile(to, from, NULL, (size_t)16 << 20)) > 0)
        ;
    return copied < 0 ? -1 : 0;
}

/* Owners are given as far as they can be; their failure is none. */
static int keep_attributes(const char *path, const struct stat *info)
{
    const struct timespec times[2] = {info->st_atim, info->st_mtim};
    if (lchown(path, info->st_uid, info->st_gid) < 0 && errno != EPERM && errno != EINVAL)
        return -1;
    if (!S_ISLNK(info->st_mode) && chmod(path, info->st_mode & 07777) < 0)
        return -1;
    return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
}

static int copy_file(const char *from, const char *to, const struct stat *info)
{
    int source = open(from, O_RDONLY | O_CLOEXEC), target = -1, result = -1;
    if (source >= 0)
        target = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (target >= 0)
        result = osb_file_copy_bytes(source, target);
    int error = errno;
    if (target >= 0 && close(target) < 0 && result == 0) {
        error = errno;
        result = -1;
    }
    if (source >= 0)
        close(source);
    errno = error;
    return result < 0 ? -1 : keep_attributes(to, info);
}

static int copy_link(const char *from, const char *to, const struct stat *info)
{
    char target[PATH_MAX];
    ssize_t len = readlink(from, target, sizeof target - 1);
    if (len < 0)
        return -1;
    target[len] = '\0';
    return symlink(target, to) < 0 ? -1 : keep_attributes(to, info);
}

static int copy_entry(const FTSENT *entry, const char *to)
{
    const struct stat *info = entry->fts_statp;
    switch (entry->fts_info) {
    case FTS_D:
        return mkdir(to, 0700);
    case FTS_DP:
        return keep_attributes(to, info);
    case FTS_F:
        return copy_file(entry->fts_accpath, to, info);
    case FTS_SL:
    case FTS_SLNONE:
        return copy_link(entry->fts_accpath, to, info);
    case FTS_DEFAULT:
        return mknod(to, info->st_mode, info->st_rdev) < 0 ? -1 : keep_attributes(to, info);
    default:
        errno = entry->fts_errno ? entry->fts_errno : EIO;
        return -1;
    }
}

static int remove_entry(const FTSENT *entry, const char *to)
{
    (void)to;
    if (entry->fts_info == FTS_D)
        return 0;
    return entry->fts_info == FTS_DP || entry->fts_info == FTS_DNR ? rmdir(entry->fts_accpath)
                                                                   : unlink(entry->fts_accpath);
}

/* Calls `step` for all of the tree, with the place below `to` that corresponds. */
static int walk_tree(char *root, const char *to, int (*step)(const FTSENT *entry, const char *to))
{
    char *const roots[] = {root, NULL};
    size_t root_len = strlen(root);
    int result = 0, error = 0;
    FTSENT *entry;
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!walk)
        return -1;
    while (result == 0 && (entry = fts_read(walk))) {
        char *place = NULL;
        result = asprintf(&place, "%s%s", to, entry->fts_path + root_len) < 0 ? -1 : step(entry, place);
        error = errno;
        free(place);
    }
    fts_close(walk);
    errno = error;
    return result;
}

int osb_file_move_across(char *from, const char *to)
{
    if (walk_tree(from, to, copy_entry) == 0)
        return walk_tree(from, to, remove_entry);
    int error = errno;
    char *copy = strdup(to);
    if (copy)
        walk_tree(copy, to, remove_entry);
    free(copy);
    errno = error;
    return -1;
}
