/* Removal of directory trees that were writable for strangers. */
#ifndef OSB_CLEAN_H
#define OSB_CLEAN_H

#include <stdbool.h>

/* Removes `name` in the directory `parent` with all below it, giving itself the permissions that this needs; symbolic
 * links are not followed. Nobody may be writing to the tree any more. True when it is gone. */
bool osb_clean_tree(int parent, const char *name);

/* As above, within a new user namespace of the sandboxes: for files that belong to subordinate ids of an ordinary user.
 */
bool osb_clean_tree_in_userns(int parent, const char *name);

#endif
