#include "runtime/runtime/identity.h"

#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "runtime/runtime/path.h"

#define RANGE 65536U
#define NOBODY 65534U
/* Between the ranges that systemd gives to containers and 2^31, where some programs take ids for negative. */
#define SLOT_BASE 0x70000000U
#define SLOT_END 0x7fff0000U

static uint32_t random_number(void)
{
    uint32_t number;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        number = (uint32_t)getpid();
    return number;
}

/* The largest range of ids that exist in our own user namespace. */
static struct osb_id_line largest_range(const char *map_file)
{
    struct osb_id_line best = {0};
    FILE *file = fopen(map_file, "re");
    if (!file)
        return best;
    uint32_t inside;
    uint32_t outside;
    uint32_t count;
    while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32, &inside, &outside, &count) == 3) {
        if (count > best.count)
            best = (struct osb_id_line){.inside = inside, .outside = outside, .count = count};
    }
    (void)fclose(file);
    return best;
}

/* True when a range of /etc/subuid or /etc/subgid, which belongs to some user, overlaps the RANGE ids from `base`. */
static bool range_is_granted(const char *path, uint32_t base)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char line[256];
    bool taken = false;
    while (!taken && fgets(line, sizeof line, file)) {
        const char *numbers = strchr(line, ':');
        uint32_t start;
        uint32_t count;
        if (numbers && sscanf(numbers, ":%" SCNu32 ":%" SCNu32, &start, &count) == 2)
            taken = start < base + RANGE && base < start + count;
    }
    (void)fclose(file);
    return taken;
}

/* Ids for a runtime that has all ids of the machine. */
static uint32_t next_slot(void)
{
    static uint32_t slot; /* counts on from a random start, so that sandboxes of one runtime never share ids */
    const uint32_t slots = (SLOT_END - SLOT_BASE) / RANGE;
    if (!slot)
        slot = random_number() % slots + 1;
    uint32_t base = SLOT_BASE;
    for (uint32_t tries = 0; tries < slots; tries++) {
        base = SLOT_BASE + slot++ % slots * RANGE;
        if (!range_is_granted("/etc/subuid", base) && !range_is_granted("/etc/subgid", base))
            break;
    }
    return base;
}

static struct osb_id_map map_of_range(uint32_t base, uint32_t count)
{
    struct osb_id_map map = {.line = {{.inside = 0, .outside = base, .count = count}}, .count = 1};
    if (count > 1 && count <= NOBODY) { /* the last id of a short range stands for nobody */
        map.line[0].count = count - 1;
        map.line[1] = (struct osb_id_line){.inside = NOBODY, .outside = base + count - 1, .count = 1};
        map.count = 2;
    }
    return map;
}

/* False when there are no ids but the own one. */
static bool pick_as_root(struct osb_identity *identity)
{
    struct osb_id_line uids = largest_range("/proc/self/uid_map");
    struct osb_id_line gids = largest_range("/proc/self/gid_map");
    struct osb_id_line both = uids.count < gids.count ? uids : gids;
    uint32_t base;
    uint32_t count = RANGE;
    if (both.count < 2)
        return false;
    if (both.inside <= SLOT_BASE && both.inside + both.count >= SLOT_END) {
        base = next_slot();
    } else if (both.count >= 2 * RANGE) { /* a container with some ids: the last ones */
        base = both.inside + both.count - RANGE;
    } else {
        base = both.inside + both.count / 2;
        count = both.count - both.count / 2;
    }
    identity->switches = true;
    identity->uid = base;
    identity->gid = base;
    identity->uids = map_of_range(base, count);
    identity->gids = map_of_range(base, count);
    return true;
}

/* Finds the range that a file of the form NAME:START:COUNT grants to the user. */
static bool find_granted(const char *path, const char *name, uid_t uid, struct osb_id_line *line)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    char number[16];
    snprintf(number, sizeof number, "%u", uid);
    char text[256];
    bool found = false;
    while (!found && fgets(text, sizeof text, file)) {
        char *rest = strchr(text, ':');
        if (!rest)
            continue;
        *rest++ = '\0';
        if (strcmp(text, number) != 0 && (!name || strcmp(text, name) != 0))
            continue;
        found = sscanf(rest, "%" SCNu32 ":%" SCNu32, &line->outside, &line->count) == 2 && line->count > 0;
    }
    (void)fclose(file);
    return found;
}

static struct osb_id_map map_of_user(uint32_t own, const struct osb_id_line *granted)
{
    struct osb_id_map map = {.line = {{.inside = 0, .outside = own, .count = 1}}, .count = 1};
    if (!granted)
        return map;
    map.line[1] = (struct osb_id_line){.inside = 1, .outside = granted->outside, .count = granted->count};
    if (map.line[1].count > RANGE - 1)
        map.line[1].count = RANGE - 1;
    map.count = 2;
    return map;
}

static void pick_as_user(struct osb_identity *identity)
{
    identity->uid = geteuid();
    identity->gid = getegid();
    const struct passwd *user = getpwuid(identity->uid);
    const char *name = user ? user->pw_name : NULL;
    struct osb_id_line uids = {0};
    struct osb_id_line gids = {0};
    identity->uses_helper = osb_path_find_program("newuidmap", NULL, 0) &&
                            osb_path_find_program("newgidmap", NULL, 0) &&
                            find_granted("/etc/subuid", name, identity->uid, &uids) &&
                            find_granted("/etc/subgid", name, identity->uid, &gids);
    identity->uids = map_of_user(identity->uid, identity->uses_helper ? &uids : NULL);
    identity->gids = map_of_user(identity->gid, identity->uses_helper ? &gids : NULL);
}

bool osb_identity_pick(struct osb_identity *identity, char *error, size_t size)
{
    *identity = (struct osb_identity){0};
    if (geteuid() == 0 && !pick_as_root(identity)) {
        snprintf(error, size,
                 "as root, sandboxes need user ids to run under, and /proc/self/uid_map has none but 0; run the "
                 "runtime as an "
                 "ordinary user, or map more ids");
        return false;
    }
    if (geteuid() != 0) {
        if (access("/proc/sys/kernel/core_pattern", W_OK) == 0) {
            snprintf(error, size,
                     "this user is the machine's root under another id; run the runtime as an ordinary user");
            return false;
        }
        pick_as_user(identity);
    }
    return true;
}
