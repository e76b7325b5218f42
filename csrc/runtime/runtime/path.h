/* Small helpers for files and programs. */
#ifndef OSB_PATH_H
#define OSB_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Finds an executable on PATH and then in the usual system directories; copies its path to `out` unless `size` is 0. */
bool osb_path_find_program(const char *name, char *out, size_t size);

/* "DIR/NAME" into `out`; false when it does not fit. */
bool osb_path_join(char *out, size_t size, const char *dir, const char *name);

/* Writes all bytes to a descriptor; false with errno. */
bool osb_path_write_all(int fd, const void *bytes, size_t len);

/* Writes a new file of that mode (whatever the umask), relative to `dir`. False with errno. */
bool osb_path_write_file(int dir, const char *name, const void *bytes, size_t len, mode_t mode);

/* Copies a regular file to a new one of that mode. False with errno. */
bool osb_path_copy_file(const char *from, int dir, const char *name, mode_t mode);

/* Reads the beginning of a small file as text, without its last newline; "" when it can't be read. */
void osb_path_read_line(const char *path, char *out, size_t size);

#endif
