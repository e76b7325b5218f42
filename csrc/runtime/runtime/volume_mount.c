/* Volumes on their way into a sandbox. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/runtime/args.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/userns.h"
#include "runtime/runtime/volume.h"

#define RANGE 65536U

/* ---- the places that they are mounted on ---- */

/* Opens the directory `name`, which is made for `identity` when it is missing; takes `parent`. -1 with errno. */
static int enter(int parent, const char *name, const struct osb_identity *identity)
{
    bool usable = true;
    if (mkdirat(parent, name, 0755) == 0)
        usable =
            fchmodat(parent, name, 0755, 0) == 0 &&
            (!identity->switches || fchownat(parent, name, identity->uid, identity->gid, AT_SYMLINK_NOFOLLOW) == 0);
    int fd = usable ? openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    int code = errno;
    close(parent);
    errno = code;
    return fd;
}

static bool is_private(const char *name)
{
    for (size_t i = 0; osb_state_private_dirs[i]; i++) {
        if (strcmp(name, osb_state_private_dirs[i]) == 0)
            return true;
    }
    return false;
}

static bool make_target(int private_dir, const char *target, const struct osb_identity *identity)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", target);
    char *rest = NULL;
    char *name = strtok_r(path, "/", &rest);
    if (!name || !is_private(name))
        return true; /* bubblewrap makes it, in a new root where no links are */
    int fd = openat(private_dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    while (fd >= 0 && (name = strtok_r(NULL, "/", &rest)) != NULL)
        fd = enter(fd, name, identity);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

bool osb_volumes_make_targets(const struct osb_volumes *volumes, const struct osb_state *state, const char *id,
                              const struct osb_identity *identity, char *error, size_t size)
{
    if (volumes->count == 0)
        return true;
    int dir = openat(state->dir, id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const char *what = id;
    bool made = dir >= 0 && (!identity->switches || (mkdirat(dir, OSB_VOLUMES_STAGING, 0700) == 0 &&
                                                     fchownat(dir, OSB_VOLUMES_STAGING, 0, identity->gid, 0) == 0 &&
                                                     fchmodat(dir, OSB_VOLUMES_STAGING, 0710, 0) == 0));
    for (size_t i = 0; i < volumes->count && made; i++) {
        what = volumes->list[i].target;
        made = make_target(dir, what, identity);
    }
    if (!made)
        snprintf(error, size, "A volume can't be mounted on %s: %s.", what, strerror(errno));
    if (dir >= 0)
        close(dir);
    return made;
}

/* ---- ids ---- */

/* Root inside for the id that owns the directory, the sandbox's other ids for themselves: nobody else's files can be
 * made there, nor opened by more than the permissions of others. */
static struct osb_id_map map_of_owner(uint32_t owner, uint32_t base)
{
    return (struct osb_id_map){.line = {{.inside = owner, .outside = base, .count = 1},
                                        {.inside = base + 1, .outside = base + 1, .count = RANGE - 1}},
                               .count = 2};
}

/* The user namespace by which the directory's ids are translated; -1 with a sentence. */
static int make_mapping(int dir, const struct osb_identity *identity, char *error, size_t size)
{
    struct stat info;
    if (fstat(dir, &info) != 0) {
        snprintf(error, size, "a volume can't be looked at: %s", strerror(errno));
        return -1;
    }
    struct osb_identity mapped = *identity;
    mapped.uids = map_of_owner(info.st_uid, identity->uid);
    mapped.gids = map_of_owner(info.st_gid, identity->gid);
    return osb_userns_make(&mapped, error, size);
}

static bool map_one(struct osb_volume *volume, const struct osb_identity *identity, int userns, char *error,
                    size_t size)
{
    int mapping = volume->claim ? fcntl(userns, F_DUPFD_CLOEXEC, 0) : make_mapping(volume->fd, identity, error, size);
    if (mapping < 0)
        return false;
    int tree = open_tree(volume->fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                    (volume->read_only ? (uint64_t)MOUNT_ATTR_RDONLY : 0),
        .userns_fd = (unsigned int)mapping,
    };
    bool mapped = tree >= 0 && mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0;
    if (!mapped) {
        snprintf(error, size,
                 "a volume's owners can't be translated for the sandbox (%s): that needs Linux 5.12, a file system "
                 "with id-mapped mounts such as ext4, XFS or Btrfs, and a runtime that may mount; or run the runtime "
                 "as an ordinary user",
                 strerror(errno));
        if (tree >= 0)
            close(tree);
        tree = -1;
    }
    close(mapping);
    if (mapped) {
        close(volume->fd);
        volume->fd = tree;
    }
    return mapped;
}

bool osb_volumes_map(struct osb_volumes *volumes, const struct osb_identity *identity, int userns, char *error,
                     size_t size)
{
    for (size_t i = 0; i < volumes->count; i++) {
        if (!map_one(&volumes->list[i], identity, userns, error, size)) {
            osb_log("%s", error);
            return false;
        }
    }
    return true;
}

/* ---- the new process ---- */

bool osb_volumes_attach(const struct osb_volumes *volumes, const char *staging)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    for (size_t i = 0; i < volumes->count; i++) {
        char place[PATH_MAX + 16];
        snprintf(place, sizeof place, "%s/%zu", staging, i);
        if (mkdir(place, 0700) != 0 ||
            move_mount(volumes->list[i].fd, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH) != 0)
            return false;
    }
    return true;
}

bool osb_volumes_args(const struct osb_volumes *volumes, const char *staging, int first, struct osb_buf *args)
{
    bool fits = true;
    for (size_t i = 0; i < volumes->count && fits; i++) {
        const struct osb_volume *volume = &volumes->list[i];
        char source[PATH_MAX + 16];
        if (staging) {
            snprintf(source, sizeof source, "%s/%zu", staging, i);
            fits = osb_args_add(args, volume->read_only ? "--ro-bind" : "--bind", source, volume->target, NULL);
        } else {
            snprintf(source, sizeof source, "%zu", (size_t)first + i);
            fits = osb_args_add(args, volume->read_only ? "--ro-bind-fd" : "--bind-fd", source, volume->target, NULL);
        }
    }
    return fits;
}
