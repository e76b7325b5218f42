#include "runtime/shared/text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Length of the character that a lead byte announces and the bounds of the byte after it (Unicode table 3-7); 0 for no
 * lead byte. */
static size_t lead_byte(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    if (lead < 0xe0)
        return 2;
    if (lead < 0xf0) {
        if (lead == 0xe0)
            *low = 0xa0;
        else if (lead == 0xed)
            *high = 0x9f;
        return 3;
    }
    if (lead == 0xf0)
        *low = 0x90;
    else if (lead == 0xf4)
        *high = 0x8f;
    return 4;
}

size_t osb_utf8_length(const char *bytes, size_t len)
{
    const unsigned char *at = (const unsigned char *)bytes;
    unsigned char low, high;
    if (len == 0)
        return 0;
    size_t size = lead_byte(at[0], &low, &high);
    if (size > len)
        return 0;
    if (size > 1 && (at[1] < low || at[1] > high))
        return 0;
    for (size_t i = 2; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    return size;
}

bool osb_utf8_valid(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t size = osb_utf8_length(bytes + i, len - i);
        if (size == 0)
            return false;
        i += size;
    }
    return true;
}

bool osb_utf8_clean(struct osb_buf *out, const char *bytes, size_t len)
{
    size_t start = 0, at = 0;
    while (at < len) {
        size_t size = osb_utf8_length(bytes + at, len - at);
        if (size > 0) {
            at += size;
            continue;
        }
        if (!osb_buf_append(out, bytes + start, at - start) || !osb_buf_append(out, "\xef\xbf\xbd", 3))
            return false;
        start = ++at;
    }
    return osb_buf_append(out, bytes + start, at - start);
}

json_t *osb_json_text(const char *bytes, size_t len)
{
    json_t *text = json_stringn(bytes, len);
    if (text)
        return text;
    struct osb_buf clean = {0};
    if (osb_utf8_clean(&clean, bytes, len))
        text = json_stringn(osb_buf_data(&clean), clean.len);
    osb_buf_free(&clean);
    return text;
}

void osb_time_format(const struct timespec *time, char out[OSB_TIME_SIZE])
{
    struct tm parts;
    gmtime_r(&time->tv_sec, &parts);
    size_t len = strftime(out, OSB_TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &parts);
    if (time->tv_nsec > 0) {
        len += (size_t)snprintf(out + len, OSB_TIME_SIZE - len, ".%09ld", time->tv_nsec);
        while (out[len - 1] == '0')
            len--;
    }
    snprintf(out + len, OSB_TIME_SIZE - len, "Z");
}

void osb_random_hex(char *out, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char random[64];
    for (size_t i = 0; i < digits; i++) {
        if (i % sizeof random == 0 && getentropy(random, sizeof random) != 0)
            abort();
        out[i] = hex[random[i % sizeof random] & 15];
    }
    out[digits] = '\0';
}
