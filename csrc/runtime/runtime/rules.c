#include "runtime/runtime/rules.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "runtime/shared/text.h"

#define RESERVED_PREFIX "opensandbox.io/"
#define KEY_MAX 317 /* bytes; the longest key of a Kubernetes label */
#define VALUE_MAX 4096

bool osb_rules_check_metadata(const json_t *metadata, struct osb_rule_error *error)
{
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (strncmp(key, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0) {
            error->code = "INVALID_METADATA_LABEL";
            snprintf(error->message, sizeof error->message,
                     "Metadata key '%.100s' uses the reserved prefix '" RESERVED_PREFIX
                     "'. Keys under this prefix are managed by the system and cannot be set via metadata.",
                     key);
            return false;
        }
        if (!*key || strlen(key) > KEY_MAX || json_string_length(value) > VALUE_MAX) {
            error->code = "SANDBOX::INVALID_METADATA_LABEL";
            snprintf(error->message, sizeof error->message,
                     "Metadata key '%.100s' is invalid: keys have 1 to %d bytes, values at most %d.", key, KEY_MAX,
                     VALUE_MAX);
            return false;
        }
    }
    return true;
}

/* ---- times ---- */

/* Takes exactly `digits` digits from *text. */
static bool take_number(const char **text, size_t digits, int *number)
{
    *number = 0;
    for (size_t i = 0; i < digits; i++, (*text)++) {
        if (!isdigit((unsigned char)**text))
            return false;
        *number = *number * 10 + (**text - '0');
    }
    return true;
}

static bool take_char(const char **text, const char *any)
{
    if (!**text || !strchr(any, **text))
        return false;
    (*text)++;
    return true;
}

/* "Z", "+hh:mm", "+hhmm" or nothing: seconds east of UTC. */
static bool take_zone(const char **text, int *east)
{
    *east = 0;
    if (!**text || take_char(text, "Zz"))
        return true;
    const int sign = **text == '-' ? -1 : 1;
    int hours;
    int minutes;
    if (!take_char(text, "+-") || !take_number(text, 2, &hours))
        return false;
    (void)take_char(text, ":");
    if (!take_number(text, 2, &minutes) || hours > 23 || minutes > 59)
        return false;
    *east = sign * (hours * 3600 + minutes * 60);
    return true;
}

bool osb_rules_parse_time(const char *text, struct timespec *time)
{
    struct tm parts = {0};
    int east;
    long nanoseconds = 0;
    if (!take_number(&text, 4, &parts.tm_year) || !take_char(&text, "-") || !take_number(&text, 2, &parts.tm_mon) ||
        !take_char(&text, "-") || !take_number(&text, 2, &parts.tm_mday) || !take_char(&text, "Tt ") ||
        !take_number(&text, 2, &parts.tm_hour) || !take_char(&text, ":") || !take_number(&text, 2, &parts.tm_min) ||
        !take_char(&text, ":") || !take_number(&text, 2, &parts.tm_sec))
        return false;
    if (take_char(&text, ".,")) {
        long unit = 100000000;
        if (!isdigit((unsigned char)*text))
            return false;
        for (; isdigit((unsigned char)*text); text++, unit /= 10)
            nanoseconds += unit * (*text - '0');
    }
    if (!take_zone(&text, &east) || *text)
        return false;
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    const struct tm asked = parts;
    time->tv_sec = timegm(&parts); /* puts the parts in range, so that a 31 April shows */
    time->tv_nsec = nanoseconds;
    if (parts.tm_mon != asked.tm_mon || parts.tm_mday != asked.tm_mday || parts.tm_hour != asked.tm_hour ||
        parts.tm_min != asked.tm_min)
        return false;
    time->tv_sec -= east;
    return true;
}

/* ---- filters ---- */

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return isxdigit((unsigned char)digit) ? tolower((unsigned char)digit) - 'a' + 10 : -1;
}

/* URL decoding of a form value; false when memory is out. */
static bool decode(const char *text, size_t len, struct osb_buf *out)
{
    osb_buf_clear(out);
    bool fits = true;
    for (size_t i = 0; i < len && fits; i++) {
        char byte = text[i] == '+' ? ' ' : text[i];
        if (byte == '%' && i + 2 < len && hex_value(text[i + 1]) >= 0 && hex_value(text[i + 2]) >= 0) {
            byte = (char)(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
            i += 2;
        }
        fits = osb_buf_append_byte(out, byte);
    }
    return fits;
}

json_t *osb_rules_parse_filter(const char *filter)
{
    json_t *wanted = json_object();
    struct osb_buf key = {0};
    struct osb_buf value = {0};
    bool valid = wanted != NULL;
    while (valid && *filter) {
        size_t len = strcspn(filter, "&");
        const char *equals = memchr(filter, '=', len);
        valid = equals && decode(filter, (size_t)(equals - filter), &key) && osb_buf_append_byte(&key, '\0') &&
                decode(equals + 1, len - (size_t)(equals + 1 - filter), &value) &&
                osb_utf8_valid(osb_buf_data(&key), key.len) &&
                json_object_set_new(wanted, osb_buf_data(&key), osb_json_text(osb_buf_data(&value), value.len)) == 0;
        filter += len;
        if (*filter == '&' && !*++filter)
            valid = false;
    }
    osb_buf_free(&key);
    osb_buf_free(&value);
    if (!valid) {
        json_decref(wanted);
        return NULL;
    }
    return wanted;
}
