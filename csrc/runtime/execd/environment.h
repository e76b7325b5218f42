/* Environment of commands, and paths as the API takes them: `$VAR`, `${VAR}` and a leading `~` are expanded. */
#ifndef OSB_ENVIRONMENT_H
#define OSB_ENVIRONMENT_H

#include <jansson.h>
#include <stdbool.h>

#define OSB_PATH_ERROR_SIZE 512

/* Fixes the environment that commands get: that of the program without its secrets, with PATH, HOME and LANG added
 * where missing. To be called once, before any thread starts; false when memory is out. */
bool osb_environment_init(void);
void osb_environment_free(void);

/* A variable of it, or NULL. */
const char *osb_environment_get(const char *name);

/* The environment with `extra` (object of strings, may be NULL) on top, for execve; to be freed with
 * osb_environment_release. NULL when memory is out. */
char **osb_environment_merge(const json_t *extra);
void osb_environment_release(char **environment);

/* The path of a program looked up in PATH, to be freed; NULL when there is none. */
char *osb_environment_find_program(const char *name);

/* Expands `path` with the variables of `extra` over the environment. NULL with a sentence in `error` when a variable is
 * unknown. */
char *osb_path_expand(const char *path, const json_t *extra, char error[OSB_PATH_ERROR_SIZE]);

/* The same, made absolute and free of "." and ".." by its text alone. */
char *osb_path_expand_absolute(const char *path, char error[OSB_PATH_ERROR_SIZE]);

/* Makes the directory and its parents with `mode` (before umask); 0 or -1 with errno. */
int osb_path_make_directories(const char *path, unsigned int mode);

/* NULL when `path` ("" counts as unset) is a directory that exists once expanded, else a sentence in `error`. */
const char *osb_path_check_directory(const char *path, char error[OSB_PATH_ERROR_SIZE]);

/* Length of the part before the last '/' (0 when there is none; "/" keeps its slash). */
size_t osb_path_directory_length(const char *path);

#endif
