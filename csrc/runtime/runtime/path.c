#include "runtime/runtime/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

bool osb_path_find_program(const char *name, char *out, size_t size)
{
    const char *own = getenv("PATH");
    const char *const lists[] = {own ? own : "", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (const char *dir = lists[i]; *dir;) {
            size_t len = strcspn(dir, ":");
            char path[PATH_MAX];
            int used = snprintf(path, sizeof path, "%.*s/%s", (int)len, dir, name);
            if (*dir == '/' && used > 0 && (size_t)used < sizeof path && access(path, X_OK) == 0) {
                if (size)
                    snprintf(out, size, "%s", path);
                return true;
            }
            dir += len + (dir[len] == ':');
        }
    }
    return false;
}

bool osb_path_join(char *out, size_t size, const char *dir, const char *name)
{
    int used = snprintf(out, size, "%s/%s", dir, name);
    return used > 0 && (size_t)used < size;
}

bool osb_path_write_all(int fd, const void *bytes, size_t len)
{
    const char *next = bytes;
    while (len > 0) {
        ssize_t done = write(fd, next, len);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return false;
        }
        next += done;
        len -= (size_t)done;
    }
    return true;
}

/* Makes the new file; a descriptor or -1 with errno. */
static int create_file(int dir, const char *name, mode_t mode)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && fchmod(fd, mode) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

bool osb_path_write_file(int dir, const char *name, const void *bytes, size_t len, mode_t mode)
{
    int fd = create_file(dir, name, mode);
    if (fd < 0)
        return false;
    bool written = osb_path_write_all(fd, bytes, len);
    return close(fd) == 0 && written;
}

bool osb_path_copy_file(const char *from, int dir, const char *name, mode_t mode)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return false;
    int out = create_file(dir, name, mode);
    ssize_t copied = out < 0 ? -1 : 1;
    while (copied > 0)
        copied = sendfile(out, in, NULL, (size_t)1 << 20);
    close(in);
    return out >= 0 && close(out) == 0 && copied == 0;
}

void osb_path_read_line(const char *path, char *out, size_t size)
{
    out[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t len = read(fd, out, size - 1);
    close(fd);
    out[len > 0 ? len : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}
