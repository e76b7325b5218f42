/* Small text helpers of the runtime's programs: valid UTF-8, JSON strings, times, ids. */
#ifndef OSB_TEXT_H
#define OSB_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "common/buf.h"

/* Length of the valid UTF-8 character that begins at `bytes` (1–4), or 0 when none does within `len`. */
size_t osb_utf8_length(const char *bytes, size_t len);

/* True when all `len` bytes are valid UTF-8. */
bool osb_utf8_valid(const char *bytes, size_t len);

/* Appends the bytes with U+FFFD for every byte that is not part of a valid character; false when memory is out. */
bool osb_utf8_clean(struct osb_buf *out, const char *bytes, size_t len);

/* A JSON string of any bytes, cleaned as above; NULL when memory is out. */
json_t *osb_json_text(const char *bytes, size_t len);

/* RFC 3339 in UTC with up to nine fractional digits, trailing zeros left out ("2026-11-20T22:14:05.5Z"). */
#define OSB_TIME_SIZE 40
void osb_time_format(const struct timespec *time, char out[OSB_TIME_SIZE]);

/* Random lower-case hexadecimal digits, `digits` of them, and a terminator. */
void osb_random_hex(char *out, size_t digits);

#endif
