/* The runtime's log: lines of JSON. Never give it a key, a token or an environment. */
#ifndef OSB_LOG_H
#define OSB_LOG_H

#include <stdbool.h>

/* Opens the log: the file `path` for appending, made with mode 0600, or standard error when it is "-"; NULL: none.
 * False with errno. */
bool osb_log_open(const char *path);

/* Appends one line with the time and the process id. */
void osb_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
