/* Control groups, version 2 or 1. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "runtime/runtime/limits.h"
#include "runtime/runtime/log.h"
#include "runtime/runtime/path.h"

#define MOUNT "/sys/fs/cgroup"
#define ASIDE "runtime"
#define PROCESSES "2048"
#define PERIOD 100000 /* microseconds */
#define REMOVE_TRIES 200
#define REMOVE_WAIT 10000 /* microseconds; ended processes leave their group a little later */

static const char *const controllers[OSB_CGROUPS] = {"cpu", "memory", "pids"};

static bool write_file(const char *dir, const char *name, const char *text)
{
    char path[PATH_MAX];
    if (!osb_path_join(path, sizeof path, dir, name))
        return false;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool written = osb_path_write_all(fd, text, strlen(text));
    close(fd);
    return written;
}

static bool has_file(const char *dir, const char *name)
{
    char path[PATH_MAX];
    return osb_path_join(path, sizeof path, dir, name) && access(path, W_OK) == 0;
}

/* True when the comma-separated list has the word. */
static bool is_listed(const char *list, size_t len, const char *word)
{
    const size_t size = strlen(word);
    for (const char *next = list; next < list + len; next++) {
        const char *comma = memchr(next, ',', (size_t)(list + len - next));
        const size_t part = comma ? (size_t)(comma - next) : (size_t)(list + len - next);
        if (part == size && memcmp(next, word, size) == 0)
            return true;
        next += part;
    }
    return false;
}

/* ---- where ---- */

/* The directory of the own group in the hierarchy of a controller ("" is version 2); false when there is none. */
static bool find_own(const char *controller, char *out, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        list++;
        const size_t len = (size_t)(path - list);
        path[strcspn(path, "\n")] = '\0';
        found = *controller ? is_listed(list, len, controller) : len == 0;
        if (found)
            snprintf(out, size, MOUNT "%s%.*s%s", *controller ? "/" : "", (int)len, list, path + 1);
        /* in a container that sees only its own part, the path may be that of the machine */
        if (found && access(out, F_OK) != 0)
            snprintf(out, size, MOUNT "%s%.*s", *controller ? "/" : "", (int)len, list);
    }
    if (file)
        (void)fclose(file);
    size_t end = strlen(out);
    while (found && end > 0 && out[end - 1] == '/')
        out[--end] = '\0';
    return found;
}

static bool make_base(const char *own, const char *name, char *base)
{
    return osb_path_join(base, PATH_MAX, own, name) && (mkdir(base, 0755) == 0 || errno == EEXIST);
}

/* Has the controllers of version 2 work in `base`, below `own`; false when none does. */
static bool enable(struct osb_cgroups *cgroups, const char *own, const char *base)
{
    bool any = false;
    for (size_t i = 0; i < OSB_CGROUPS; i++) {
        char word[16];
        char file[16];
        snprintf(word, sizeof word, "+%s", controllers[i]);
        snprintf(file, sizeof file, "%s.max", controllers[i]);
        if ((has_file(base, file) || write_file(own, "cgroup.subtree_control", word)) &&
            write_file(base, "cgroup.subtree_control", word)) {
            snprintf(cgroups->base[i], sizeof cgroups->base[i], "%s", base);
            any = true;
        }
    }
    return any;
}

/* A group with members can have no controllers for groups below it, so the runtime may have to move to one below. That
 * helps where it was alone in its group, as with systemd's Delegate=, which also removes what is left of it. */
static void open_unified(struct osb_cgroups *cgroups, const char *name)
{
    char own[PATH_MAX];
    char base[PATH_MAX];
    char aside[PATH_MAX];
    cgroups->unified = true;
    if (!find_own("", own, sizeof own) || !make_base(own, name, base) || enable(cgroups, own, base))
        return;
    if (osb_path_join(aside, sizeof aside, base, ASIDE) && mkdir(aside, 0755) == 0) {
        if (write_file(aside, "cgroup.procs", "0") && enable(cgroups, own, base))
            return;
        (void)write_file(own, "cgroup.procs", "0");
        (void)rmdir(aside);
    }
    (void)rmdir(base);
}

void osb_cgroups_open(struct osb_cgroups *cgroups, const char *name)
{
    struct statfs info;
    *cgroups = (struct osb_cgroups){0};
    if (statfs(MOUNT, &info) != 0)
        return;
    if (info.f_type == CGROUP2_SUPER_MAGIC) {
        open_unified(cgroups, name);
        return;
    }
    for (size_t i = 0; i < OSB_CGROUPS; i++) {
        char own[PATH_MAX] = "";
        if (!find_own(controllers[i], own, sizeof own) || !make_base(own, name, cgroups->base[i]))
            *cgroups->base[i] = '\0';
    }
}

/* ---- groups ---- */

static bool set_limit(const struct osb_cgroups *cgroups, size_t controller, const char *group,
                      const struct osb_limits *limits)
{
    char text[64];
    const int64_t quota = limits->cpu * (PERIOD / 1000);
    switch (controller) {
    case OSB_CGROUP_CPU:
        if (limits->cpu == 0)
            return true;
        snprintf(text, sizeof text, cgroups->unified ? "%" PRId64 " 100000" : "%" PRId64, quota);
        return write_file(group, cgroups->unified ? "cpu.max" : "cpu.cfs_quota_us", text);
    case OSB_CGROUP_MEMORY:
        if (limits->memory == 0)
            return true;
        snprintf(text, sizeof text, "%" PRId64, limits->memory);
        if (!write_file(group, cgroups->unified ? "memory.max" : "memory.limit_in_bytes", text))
            return false;
        /* no way round by swapping; machines without swap have no such file */
        (void)write_file(group, cgroups->unified ? "memory.swap.max" : "memory.memsw.limit_in_bytes",
                         cgroups->unified ? "0" : text);
        return true;
    default:
        return write_file(group, "pids.max", PROCESSES);
    }
}

void osb_cgroups_make(const struct osb_cgroups *cgroups, const char *id, const struct osb_limits *limits,
                      int entries[OSB_CGROUPS])
{
    /* a thread that enters a group of version 1 alone waits for no other process of the machine */
    const char *file = cgroups->unified ? "cgroup.procs" : "tasks";
    bool entered = false;
    for (size_t i = 0; i < OSB_CGROUPS; i++) {
        char group[PATH_MAX];
        char members[PATH_MAX];
        entries[i] = -1;
        if (!*cgroups->base[i] || !osb_path_join(group, sizeof group, cgroups->base[i], id) ||
            !osb_path_join(members, sizeof members, group, file))
            continue;
        if ((mkdir(group, 0755) != 0 && errno != EEXIST) || !set_limit(cgroups, i, group, limits)) {
            osb_log("sandbox %s: no limit of %s: %s", id, controllers[i], strerror(errno));
            continue;
        }
        if (!entered || !cgroups->unified || i == OSB_CGROUP_MEMORY)
            entries[i] = open(members, O_WRONLY | O_CLOEXEC);
        entered = entered || entries[i] >= 0;
    }
}

static void remove_group(const char *path)
{
    for (int tries = 0; rmdir(path) != 0 && errno == EBUSY && tries < REMOVE_TRIES; tries++)
        (void)usleep(REMOVE_WAIT);
}

/* Removes a directory of groups. */
static void remove_base(const char *base)
{
    DIR *dir = opendir(base);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        char path[PATH_MAX];
        if (entry->d_type == DT_DIR && *entry->d_name != '.' && strcmp(entry->d_name, ASIDE) != 0 &&
            osb_path_join(path, sizeof path, base, entry->d_name))
            remove_group(path);
    }
    if (dir)
        (void)closedir(dir);
    (void)rmdir(base);
}

void osb_cgroups_remove(const struct osb_cgroups *cgroups, const char *id)
{
    for (size_t i = 0; i < OSB_CGROUPS; i++) {
        char path[PATH_MAX];
        if (!*cgroups->base[i] || (cgroups->unified && i > 0 && strcmp(cgroups->base[i], cgroups->base[i - 1]) == 0))
            continue;
        if (!id)
            remove_base(cgroups->base[i]);
        else if (osb_path_join(path, sizeof path, cgroups->base[i], id))
            remove_group(path);
    }
}

void osb_cgroups_sweep(const char *name)
{
    for (size_t i = 0; i <= OSB_CGROUPS; i++) {
        char own[PATH_MAX] = "";
        char base[PATH_MAX];
        if (find_own(i < OSB_CGROUPS ? controllers[i] : "", own, sizeof own) &&
            osb_path_join(base, sizeof base, own, name))
            remove_base(base);
    }
}
