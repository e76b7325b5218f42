/* Which host ids a sandbox runs under, and how its user namespace maps them. */
#ifndef OSB_IDENTITY_H
#define OSB_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define OSB_ID_LINES 3

struct osb_id_line {
    uint32_t inside;
    uint32_t outside;
    uint32_t count;
};

struct osb_id_map {
    struct osb_id_line line[OSB_ID_LINES];
    size_t count;
};

struct osb_identity {
    uid_t uid; /* host ids of root inside */
    gid_t gid;
    struct osb_id_map uids;
    struct osb_id_map gids;
    bool switches;    /* the runtime is host root: sandboxes run under another uid than its own */
    bool uses_helper; /* the maps are written by newuidmap and newgidmap */
};

/*
 * Chooses the ids of a new sandbox. Root: an unprivileged range that no other sandbox of this process has. An ordinary
 * user: the own uid for root inside and the ranges of /etc/subuid and /etc/subgid for the rest, or the own uid alone
 * where there are none. Never the machine's own root, whom the kernel lets write to /proc/sys from any namespace: false
 * with a sentence where there is nobody else to be.
 */
bool osb_identity_pick(struct osb_identity *identity, char *error, size_t size);

/* The user namespace has more ids than one, so that files inside can have owners other than root. */
static inline bool osb_identity_is_range(const struct osb_identity *identity)
{
    return identity->uids.count > 1 || identity->uids.line[0].count > 1;
}

#endif
