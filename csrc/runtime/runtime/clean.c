#include "runtime/runtime/clean.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/runtime/identity.h"
#include "runtime/runtime/userns.h"

#define MAX_DEPTH 32 /* one descriptor per level is held */

struct walk {
    int top;            /* the tree's root */
    unsigned int moved; /* directories moved up to it from MAX_DEPTH */
};

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Gives ourselves all permissions on a directory; false when it is none or they can't be had. */
static bool unlock_dir(int parent, const char *name)
{
    struct stat info;
    if (fstatat(parent, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(info.st_mode))
        return false;
    return (info.st_mode & S_IRWXU) == S_IRWXU || fchmodat(parent, name, 0700, 0) == 0;
}

/* Opens a directory for reading and changing; -1 when that can't be had. */
static int open_dir(int parent, const char *name)
{
    return unlock_dir(parent, name) ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
}

static bool empty_dir(struct walk *walk, int fd, unsigned int depth);

static bool remove_entry(struct walk *walk, int parent, const char *name, unsigned int depth)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return false;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
        return true;
    if (depth == MAX_DEPTH) {
        char up[32];
        snprintf(up, sizeof up, ".moved-%u", walk->moved++);
        /* moving a directory changes its "..", so it must be writable */
        return unlock_dir(parent, name) && renameat(parent, name, walk->top, up) == 0;
    }
    int fd = open_dir(parent, name);
    if (fd < 0)
        return false;
    bool emptied = empty_dir(walk, fd, depth + 1);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 && emptied;
}

/* Takes the descriptor. */
static bool empty_dir(struct walk *walk, int fd, unsigned int depth)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return false;
    }
    bool emptied = true;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (!is_dots(entry->d_name))
            emptied = remove_entry(walk, dirfd(dir), entry->d_name, depth) && emptied;
    }
    (void)closedir(dir);
    return emptied;
}

bool osb_clean_tree(int parent, const char *name)
{
    struct walk walk = {.top = open_dir(parent, name)};
    if (walk.top < 0)
        return (unlinkat(parent, name, 0) == 0 || errno == ENOENT) || unlinkat(parent, name, AT_REMOVEDIR) == 0;
    unsigned int moved;
    do { /* again while directories were moved up */
        moved = walk.moved;
        int fd = openat(walk.top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || !empty_dir(&walk, fd, 0))
            break;
    } while (walk.moved != moved);
    close(walk.top);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

bool osb_clean_tree_in_userns(int parent, const char *name)
{
    struct osb_identity identity;
    char error[256];
    if (!osb_identity_pick(&identity, error, sizeof error) || identity.switches || !osb_identity_is_range(&identity))
        return false;
    int userns = osb_userns_make(&identity, error, sizeof error);
    if (userns < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        _exit(setns(userns, CLONE_NEWUSER) == 0 && osb_clean_tree(parent, name) ? 0 : 1);
    close(userns);
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
