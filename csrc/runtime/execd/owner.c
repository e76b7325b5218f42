#include "owner.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOKUP_SIZE ((size_t)64 << 10) /* room for an entry of the user or group database */
#define MAX_WISHES 65536
#define BUCKETS 1024

/* An owner that a file could not be given. The birth time tells a later file that has the same inode number. */
struct wish {
    dev_t device;
    ino_t inode;
    struct statx_timestamp born;
    bool has_owner, has_group;
    uid_t owner;
    gid_t group;
    struct wish *next;
};

static bool single_uid;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static struct wish *wishes[BUCKETS];
static size_t wish_count;

void osb_owner_init(void)
{
    unsigned long inside, outside, count = 0, more;
    FILE *map = fopen("/proc/self/uid_map", "re");
    if (!map)
        return;
    if (fscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && fscanf(map, "%lu", &more) != 1)
        single_uid = count == 1;
    fclose(map);
}

void osb_owner_free(void)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        while (wishes[i]) {
            struct wish *wish = wishes[i];
            wishes[i] = wish->next;
            free(wish);
        }
    }
    wish_count = 0;
}

bool osb_owner_is_single(void)
{
    return single_uid;
}

/* ---- the user database ---- */

static bool parse_number(const char *text, unsigned long *number)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    *number = strtoul(text, &end, 10);
    return *end == '\0' && errno == 0 && *number < UINT32_MAX;
}

static bool find_user(const char *name, uid_t *uid)
{
    struct passwd entry, *found = NULL;
    unsigned long number;
    char *room = malloc(LOOKUP_SIZE);
    if (room && getpwnam_r(name, &entry, room, LOOKUP_SIZE, &found) == 0 && found)
        *uid = found->pw_uid;
    free(room);
    if (!found && parse_number(name, &number)) {
        *uid = (uid_t)number;
        return true;
    }
    return found != NULL;
}

static bool find_group(const char *name, gid_t *gid)
{
    struct group entry, *found = NULL;
    unsigned long number;
    char *room = malloc(LOOKUP_SIZE);
    if (room && getgrnam_r(name, &entry, room, LOOKUP_SIZE, &found) == 0 && found)
        *gid = found->gr_gid;
    free(room);
    if (!found && parse_number(name, &number)) {
        *gid = (gid_t)number;
        return true;
    }
    return found != NULL;
}

static void name_user(uid_t uid, char out[OSB_OWNER_NAME_SIZE])
{
    struct passwd entry, *found = NULL;
    char *room = malloc(LOOKUP_SIZE);
    if (room && getpwuid_r(uid, &entry, room, LOOKUP_SIZE, &found) == 0 && found)
        snprintf(out, OSB_OWNER_NAME_SIZE, "%s", found->pw_name);
    else
        snprintf(out, OSB_OWNER_NAME_SIZE, "%lu", (unsigned long)uid);
    free(room);
}

static void name_group(gid_t gid, char out[OSB_OWNER_NAME_SIZE])
{
    struct group entry, *found = NULL;
    char *room = malloc(LOOKUP_SIZE);
    if (room && getgrgid_r(gid, &entry, room, LOOKUP_SIZE, &found) == 0 && found)
        snprintf(out, OSB_OWNER_NAME_SIZE, "%s", found->gr_name);
    else
        snprintf(out, OSB_OWNER_NAME_SIZE, "%lu", (unsigned long)gid);
    free(room);
}

bool osb_owner_groups(uid_t uid, gid_t *primary, gid_t *groups, size_t *count)
{
    struct passwd entry, *found = NULL;
    char *room = malloc(LOOKUP_SIZE);
    int total = (int)*count;
    *count = 0;
    if (room && getpwuid_r(uid, &entry, room, LOOKUP_SIZE, &found) == 0 && found) {
        *primary = found->pw_gid;
        if (getgrouplist(found->pw_name, found->pw_gid, groups, &total) >= 0)
            *count = (size_t)total;
    }
    free(room);
    return found != NULL;
}

/* ---- wishes ---- */

static bool identify(const char *path, struct wish *key)
{
    struct statx info;
    struct stat plain;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &info) < 0 || lstat(path, &plain) < 0)
        return false;
    key->device = plain.st_dev;
    key->inode = plain.st_ino;
    if (info.stx_mask & STATX_BTIME)
        key->born = info.stx_btime;
    return true;
}

static struct wish **find_wish(const struct wish *key)
{
    struct wish **slot = &wishes[(size_t)key->inode % BUCKETS];
    while (*slot && !((*slot)->inode == key->inode && (*slot)->device == key->device &&
                      (*slot)->born.tv_sec == key->born.tv_sec && (*slot)->born.tv_nsec == key->born.tv_nsec))
        slot = &(*slot)->next;
    return slot;
}

/* Notes the ids that are not (-1); false with errno. */
static bool make_wish(const char *path, uid_t owner, gid_t group)
{
    struct wish key = {0};
    if (!identify(path, &key))
        return false;
    pthread_mutex_lock(&lock);
    struct wish **slot = find_wish(&key);
    if (!*slot && wish_count < MAX_WISHES && (*slot = calloc(1, sizeof key))) {
        **slot = key;
        wish_count++;
    }
    struct wish *wish = *slot;
    if (wish && owner != (uid_t)-1) {
        wish->has_owner = true;
        wish->owner = owner;
    }
    if (wish && group != (gid_t)-1) {
        wish->has_group = true;
        wish->group = group;
    }
    pthread_mutex_unlock(&lock);
    errno = ENOMEM;
    return wish != NULL;
}

bool osb_owner_set(const char *path, const char *owner, const char *group, char *error, size_t error_size)
{
    uid_t uid = (uid_t)-1;
    gid_t gid = (gid_t)-1;
    if (*owner && !find_user(owner, &uid)) {
        snprintf(error, error_size, "failed to lookup user %.100s: user: unknown user %.100s", owner, owner);
        return false;
    }
    if (*group && !find_group(group, &gid)) {
        snprintf(error, error_size, "failed to lookup group %.100s: group: unknown group %.100s", group, group);
        return false;
    }
    if (uid == (uid_t)-1 && gid == (gid_t)-1)
        return true;
    if (single_uid ? make_wish(path, uid, gid) : chown(path, uid, gid) == 0)
        return true;
    snprintf(error, error_size, "failed to set owner/group for %.200s: %s", path, strerror(errno));
    return false;
}

void osb_owner_names(const char *path, const struct stat *info, struct osb_owner_cache *cache)
{
    uid_t uid = info->st_uid;
    gid_t gid = info->st_gid;
    struct wish key = {0};
    if (single_uid && identify(path, &key)) {
        pthread_mutex_lock(&lock);
        const struct wish *wish = *find_wish(&key);
        if (wish && wish->has_owner)
            uid = wish->owner;
        if (wish && wish->has_group)
            gid = wish->group;
        pthread_mutex_unlock(&lock);
    }
    if (!cache->has_owner || cache->uid != uid)
        name_user(uid, cache->owner);
    if (!cache->has_group || cache->gid != gid)
        name_group(gid, cache->group);
    cache->has_owner = cache->has_group = true;
    cache->uid = uid;
    cache->gid = gid;
}
