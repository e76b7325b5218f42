/* Records kept as small files of JSON. */
#ifndef OSB_JSON_FILE_H
#define OSB_JSON_FILE_H

#include <jansson.h>
#include <stdbool.h>

/* Writes the file `name` in the directory `dir` as a whole or not at all, mode 0600. False with errno. */
bool osb_json_save(int dir, const char *name, const json_t *value);

/* Reads an object; NULL when there is none (the caller's). */
json_t *osb_json_load(int dir, const char *name);

/* Times as the API writes them, to the microsecond, which clients can read. */
struct timespec;
json_t *osb_json_time(const struct timespec *time);

/* Reads such a time of an object; false when it is not there. */
bool osb_json_read_time(const json_t *object, const char *name, struct timespec *time);

/* The string `name` of an object into `out`; "" when it is not there or too long. */
void osb_json_read_text(const json_t *object, const char *name, char *out, size_t size);

#endif
