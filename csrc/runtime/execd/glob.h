/* Patterns of file search: those of the original server, a dialect of doublestar, matched with names (no '/' in them).
 */
#ifndef OSB_GLOB_H
#define OSB_GLOB_H

enum osb_glob_result { OSB_GLOB_NO, OSB_GLOB_YES, OSB_GLOB_BAD_PATTERN };

/* Knows * and ** (any run of characters), ? (one character), [a-z], [^a-z], [!a-z], {a,b} and \ before a special
 * character. The time is bounded: a pattern that needs too many steps is a bad one. */
enum osb_glob_result osb_glob_match(const char *pattern, const char *name);

#endif
