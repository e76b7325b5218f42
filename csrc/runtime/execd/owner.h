/* Owners and groups of files by name. Thread-safe. In a user namespace that maps a single uid nothing can be given to
 * others: there wishes are kept in a table beside and reported as if they had come true. */
#ifndef OSB_OWNER_H
#define OSB_OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#define OSB_OWNER_NAME_SIZE 256

/* Finds out whether the process can have more than one uid; before any thread starts. */
void osb_owner_init(void);
void osb_owner_free(void);

/* True in a user namespace of a single uid. */
bool osb_owner_is_single(void);

/* Gives the file to `owner` and `group`: names or numbers, "" leaves as it is. False with a sentence in `error`. */
bool osb_owner_set(const char *path, const char *owner, const char *group, char *error, size_t error_size);

/* The names looked up last; zero-initialise. */
struct osb_owner_cache {
    bool has_owner, has_group;
    uid_t uid;
    gid_t gid;
    char owner[OSB_OWNER_NAME_SIZE];
    char group[OSB_OWNER_NAME_SIZE];
};

/* Puts the names (or numbers, where there are none) of a file's owner and group into cache->owner and cache->group. */
void osb_owner_names(const char *path, const struct stat *info, struct osb_owner_cache *cache);

/* The primary group and the groups of a user; false when the uid has no entry. Stores at most `*count` groups and sets
 * their number. */
bool osb_owner_groups(uid_t uid, gid_t *primary, gid_t *groups, size_t *count);

#endif
