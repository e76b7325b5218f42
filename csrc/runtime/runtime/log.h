/* The runtime's log: silent unless OPENSANDBOX_RUNTIME_LOG names a file. Never give it a key, a token or an
 * environment. */
#ifndef OSB_LOG_H
#define OSB_LOG_H

/* Opens the log file named by the environment, for appending, mode 0600. A file that can't be opened means no log. */
void osb_log_open(void);

/* Appends one line with the time and the process id. */
void osb_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
