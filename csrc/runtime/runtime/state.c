#include "runtime/runtime/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/runtime/clean.h"
#include "runtime/runtime/limits.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/path.h"
#include "runtime/shared/text.h"

#define PREFIX "opensandbox-runtime."
#define LOCK_TRIES 400
#define LOCK_WAIT 50000 /* microseconds */

const char *const osb_state_private_dirs[] = {"workspace", "home", "root", "tmp", "var",
                                              "opt",       "app",  "srv",  "mnt", NULL};

/* Directories that programs expect below the private ones. */
static const struct {
    const char *path;
    mode_t mode;
} nested_dirs[] = {{"var/cache", 0755}, {"var/lib", 0755},   {"var/local", 0755}, {"var/log", 0755},
                   {"var/opt", 0755},   {"var/spool", 0755}, {"var/tmp", 01777}};

static mode_t mode_of(const char *name)
{
    return strcmp(name, "tmp") == 0 ? 01777 : strcmp(name, "root") == 0 ? 0700 : 0755;
}

/* Other users than root must pass through all directories above, because the sandboxes of root are such users. */
static bool is_passable(const char *path)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    struct stat info;
    for (;;) {
        if (stat(part, &info) != 0 || !(info.st_mode & S_IXOTH))
            return false;
        char *slash = strrchr(part, '/');
        if (!slash || slash == part)
            return true;
        *slash = '\0';
    }
}

/* Takes the lock of a state directory; a descriptor, or -1 when another process has it. */
static int take_lock(int dir)
{
    int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void sweep_one(int parent, const char *name)
{
    struct stat info;
    int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return;
    if (fstat(dir, &info) == 0 && info.st_uid == geteuid()) {
        int lock = take_lock(dir);
        if (lock >= 0) {
            osb_log("removing %s of a dead runtime", name);
            osb_cgroups_sweep(name);
            if (!osb_clean_tree(parent, name) && !osb_clean_tree_in_userns(parent, name))
                osb_log("%s could not be removed", name);
            close(lock);
        }
    }
    close(dir);
}

static void sweep(int parent)
{
    int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
            sweep_one(parent, entry->d_name);
    }
    (void)closedir(dir);
}

/* Makes the directory in `where` with its lock. Under a temporary name until it is locked, so that nobody sweeps it. */
static bool make_in(struct osb_state *state, const char *where)
{
    char real[PATH_MAX];
    if (!realpath(where, real) || (geteuid() == 0 && !is_passable(real)))
        return false;
    int used = snprintf(state->path, sizeof state->path, "%s/.new-" PREFIX "XXXXXX", real);
    if (used < 0 || (size_t)used >= sizeof state->path || !mkdtemp(state->path))
        return false;
    state->parent = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    state->dir = open(state->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    char *name = strrchr(state->path, '/') + 1;
    char hidden[64];
    snprintf(hidden, sizeof hidden, "%s", name);
    memmove(name, name + strlen(".new-"), strlen(name + strlen(".new-")) + 1);
    state->name = name;
    mode_t mode = geteuid() == 0 ? 0711 : 0700;
    if (state->parent >= 0 && state->dir >= 0 && fchmod(state->dir, mode) == 0 &&
        (state->lock = take_lock(state->dir)) >= 0 && renameat(state->parent, hidden, state->parent, name) == 0)
        return true;
    if (state->parent >= 0)
        (void)osb_clean_tree(state->parent, hidden);
    close(state->parent);
    close(state->dir);
    close(state->lock);
    return false;
}

/* Locks the directory of what is kept; the processes of a runtime that was killed may still be ending. */
static bool lock_kept(int dir)
{
    for (int tries = 0; flock(dir, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EWOULDBLOCK || tries == LOCK_TRIES)
            return false;
        (void)usleep(LOCK_WAIT);
    }
    return true;
}

/* Makes the folders of what outlives sandboxes. */
static bool open_kept(struct osb_state *state, bool persistent, char *error, size_t size)
{
    static const char *const folders[] = {"volumes", "snapshots", "records"};
    state->persistent = persistent;
    state->keep = persistent ? state->parent : state->dir;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (mkdirat(state->keep, folders[i], 0700) != 0 && errno != EEXIST) {
            snprintf(error, size, "the state directory can't be written: %s", strerror(errno));
            return false;
        }
    }
    return true;
}

bool osb_state_open(struct osb_state *state, const char *where, char *error, size_t size)
{
    const char *temporary = getenv("TMPDIR");
    const char *const places[] = {where ? where : temporary, "/var/tmp", "/tmp"};
    const size_t count = where ? 1 : sizeof places / sizeof *places;
    bool made = false;
    int kept = -1;
    if (where) {
        kept = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (kept >= 0 && !lock_kept(kept)) {
            snprintf(error, size, "another runtime keeps its state in %s", where);
            return false;
        }
    }
    for (size_t i = 0; i < count && !made; i++) {
        *state = (struct osb_state){.parent = -1, .dir = -1, .lock = -1};
        made = places[i] && *places[i] == '/' && make_in(state, places[i]);
    }
    if (made && kept >= 0) { /* the descriptor that has the lock */
        close(state->parent);
        state->parent = kept;
    }
    if (!made) {
        snprintf(error, size, "no directory for the state can be made in %s: it must be absolute, writable%s",
                 where ? where : "TMPDIR, /var/tmp or /tmp",
                 geteuid() == 0 ? ", and it and those above it passable for all users (chmod o+x)" : "");
        return false;
    }
    sweep(state->parent);
    return open_kept(state, where != NULL, error, size);
}

bool osb_state_discard(const struct osb_state *state, const char *folder, const char *name, char *removable,
                       size_t size)
{
    char random[17];
    osb_random_hex(random, sizeof random - 1);
    snprintf(removable, size, "gone-%s", random);
    int from = openat(state->keep, folder, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0)
        return false;
    bool moved = renameat(from, name, state->dir, removable) == 0;
    int code = errno;
    close(from);
    errno = code;
    return moved;
}

static bool make_dir(int parent, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    return mkdirat(parent, name, 0700) == 0 && (geteuid() != 0 || fchownat(parent, name, uid, gid, 0) == 0) &&
           fchmodat(parent, name, mode, 0) == 0;
}

bool osb_state_make_sandbox(const struct osb_state *state, const char *id, const struct osb_identity *identity,
                            bool empty)
{
    /* Passable for the sandbox's own group, and closed to all others: there may be set-user-ID files inside. */
    if (!make_dir(state->dir, id, 0710, geteuid(), identity->gid))
        return false;
    if (empty)
        return true;
    int dir = openat(state->dir, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return false;
    bool made = true;
    for (size_t i = 0; osb_state_private_dirs[i] && made; i++)
        made =
            make_dir(dir, osb_state_private_dirs[i], mode_of(osb_state_private_dirs[i]), identity->uid, identity->gid);
    for (size_t i = 0; i < sizeof nested_dirs / sizeof *nested_dirs && made; i++)
        made = make_dir(dir, nested_dirs[i].path, nested_dirs[i].mode, identity->uid, identity->gid);
    made = made && symlinkat("/run", dir, "var/run") == 0 && symlinkat("/run/lock", dir, "var/lock") == 0;
    int code = errno;
    close(dir);
    errno = code;
    return made;
}
