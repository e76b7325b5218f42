#include "event.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/shared/text.h"

#define EVENT_MAX ((size_t)16 << 20) /* bytes of an event, as clients bound their frames */
#define SLICE ((size_t)2 << 20)      /* text that fits whatever it holds: one byte gives at most six */
#define OVERHEAD ((size_t)128)       /* of an event beside its text */

/* What an ASCII byte needs: 0 nothing, else the letter after a backslash ('u': \u00XX). */
static const char escapes[128] = {
    'u', 'u', 'u', 'u', 'u', 'u', 'u',         'u',           'b',         't',         'n',        'u', 'f',
    'r', 'u', 'u', 'u', 'u', 'u', 'u',         'u',           'u',         'u',         'u',        'u', 'u',
    'u', 'u', 'u', 'u', 'u', 'u', ['"'] = '"', ['\\'] = '\\', ['<'] = 'u', ['>'] = 'u', ['&'] = 'u'};

#define BEYOND_ASCII 1

/* The above, or BEYOND_ASCII: the whole character has to be looked at. */
static char escape_kind(char byte)
{
    return (unsigned char)byte < sizeof escapes ? escapes[(unsigned char)byte] : BEYOND_ASCII;
}

int64_t osb_event_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Writes the escape of a character that isn't plain into `escape`; returns how many bytes of text it covers, 0: it is
 * plain after all (`plain` bytes of it). */
static size_t escape_at(const char *text, size_t len, char escape[8], size_t *escape_len, size_t *plain)
{
    unsigned char byte = (unsigned char)text[0];
    char kind = escape_kind(text[0]);
    if (kind == BEYOND_ASCII) {
        size_t size = osb_utf8_length(text, len);
        bool separator = size == 3 && byte == 0xe2 && text[1] == '\x80' && (text[2] == '\xa8' || text[2] == '\xa9');
        if (size > 0 && !separator) {
            *plain = size;
            return 0;
        }
        memcpy(escape, separator ? (text[2] == '\xa8' ? "\\u2028" : "\\u2029") : "\\ufffd", 6);
        *escape_len = 6;
        return separator ? 3 : 1;
    }
    escape[0] = '\\';
    escape[1] = kind;
    *escape_len = 2;
    if (kind == 'u') {
        snprintf(escape + 2, 6, "%04x", byte);
        *escape_len = 6;
    }
    return 1;
}

/* Appends the text escaped, without quotes. */
static bool append_escaped(struct osb_buf *out, const char *text, size_t len)
{
    size_t start = 0, at = 0;
    while (at < len) {
        if (!escape_kind(text[at])) {
            at++;
            continue;
        }
        char escape[8];
        size_t escape_len = 0, plain = 0;
        size_t covered = escape_at(text + at, len - at, escape, &escape_len, &plain);
        if (covered == 0) {
            at += plain;
            continue;
        }
        if (!osb_buf_append(out, text + start, at - start) || !osb_buf_append(out, escape, escape_len))
            return false;
        at += covered;
        start = at;
    }
    return osb_buf_append(out, text + start, at - start);
}

bool osb_event_quote(struct osb_buf *out, const char *text, size_t len)
{
    return osb_buf_append_byte(out, '"') && append_escaped(out, text, len) && osb_buf_append_byte(out, '"');
}

/* Appends `,"timestamp":N}` and the blank line. */
static bool append_tail(struct osb_buf *out, const char *before, int64_t timestamp, const char *after)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + timestamp % 10);
        timestamp /= 10;
    } while (timestamp > 0);
    return osb_buf_append_str(out, before) && osb_buf_append(out, digits + at, sizeof digits - at) &&
           osb_buf_append_str(out, after);
}

/* Size of the text once escaped. */
static size_t escaped_size(const char *text, size_t len)
{
    size_t size = 0;
    for (size_t i = 0; i < len; i++) {
        char kind = escape_kind(text[i]);
        size += kind == 0                             ? 1
                : kind == BEYOND_ASCII || kind == 'u' ? 6
                                                      : 2; /* no exact count of UTF-8: a bound is enough */
    }
    return size;
}

bool osb_event_text(struct osb_buf *out, const char *type, const char *text, size_t len, int64_t timestamp)
{
    bool whole = len <= SLICE || escaped_size(text, len) + OVERHEAD <= EVENT_MAX;
    while (len > 0) {
        size_t part = whole || len <= SLICE ? len : SLICE;
        /* do not cut a character in two */
        while (part < len && part > SLICE - 4 && ((unsigned char)text[part] & 0xc0) == 0x80)
            part--;
        if (!osb_buf_append_str(out, "{\"type\":\"") || !osb_buf_append_str(out, type) ||
            !osb_buf_append_str(out, "\",\"text\":\"") || !append_escaped(out, text, part) ||
            !append_tail(out, "\",\"timestamp\":", timestamp, "}\n\n"))
            return false;
        text += part;
        len -= part;
    }
    return true;
}

bool osb_event_ping(struct osb_buf *out)
{
    return osb_event_text(out, "ping", "pong", 4, osb_event_time());
}

bool osb_event_complete(struct osb_buf *out, int64_t elapsed)
{
    if (!osb_buf_append_str(out, "{\"type\":\"execution_complete\""))
        return false;
    if (elapsed > 0 && !append_tail(out, ",\"execution_time\":", elapsed, ""))
        return false;
    return append_tail(out, ",\"timestamp\":", osb_event_time(), "}\n\n");
}

bool osb_event_error(struct osb_buf *out, const char *value, const char *trace)
{
    return append_tail(out, "{\"type\":\"error\",\"timestamp\":", osb_event_time(),
                       ",\"error\":{\"ename\":\"CommandExecError\",\"evalue\":") &&
           osb_event_quote(out, value, strlen(value)) && osb_buf_append_str(out, ",\"traceback\":[") &&
           osb_event_quote(out, trace, strlen(trace)) && osb_buf_append_str(out, "]}}\n\n");
}

bool osb_event_count(struct osb_buf *out, unsigned int count)
{
    return append_tail(out, "{\"type\":\"execution_count\",\"execution_count\":", count, "") &&
           append_tail(out, ",\"timestamp\":", osb_event_time(), "}\n\n");
}

/* Appends any value as ASCII: some clients take more characters than newlines for the end of a line. */
static bool append_value(struct osb_buf *out, const json_t *value)
{
    if (json_is_string(value))
        return osb_event_quote(out, json_string_value(value), json_string_length(value));
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    bool appended = text && osb_buf_append_str(out, text);
    free(text);
    return appended;
}

bool osb_event_result(struct osb_buf *out, const json_t *data)
{
    const char *type, *comma = "";
    json_t *value;
    if (!append_tail(out, "{\"type\":\"result\",\"timestamp\":", osb_event_time(), ",\"results\":{"))
        return false;
    json_object_foreach((json_t *)(uintptr_t)data, type, value)
    {
        const char *name = strcmp(type, "text/plain") == 0 ? "text" : type;
        if (!osb_buf_append_str(out, comma) || !osb_event_quote(out, name, strlen(name)) ||
            !osb_buf_append_byte(out, ':') || !append_value(out, value))
            return false;
        comma = ",";
    }
    return osb_buf_append_str(out, "}}\n\n");
}

bool osb_event_failure(struct osb_buf *out, const json_t *failure)
{
    static const char *const names[] = {"ename", "evalue"};
    if (!append_tail(out, "{\"type\":\"error\",\"timestamp\":", osb_event_time(), ",\"error\":{"))
        return false;
    for (size_t i = 0; i < 2; i++) {
        const json_t *text = json_object_get(failure, names[i]);
        if (!osb_event_quote(out, names[i], strlen(names[i])) || !osb_buf_append_byte(out, ':') ||
            !osb_event_quote(out, json_is_string(text) ? json_string_value(text) : "", json_string_length(text)) ||
            !osb_buf_append_byte(out, ','))
            return false;
    }
    const json_t *traceback = json_object_get(failure, "traceback");
    if (!osb_buf_append_str(out, "\"traceback\":"))
        return false;
    return (json_is_array(traceback) ? append_value(out, traceback) : osb_buf_append_str(out, "[]")) &&
           osb_buf_append_str(out, "}}\n\n");
}

/* ---- lines ---- */

/* Emits one line: the partial one and `bytes` behind it. */
static bool emit_line(struct osb_lines *lines, const char *bytes, size_t len, struct osb_buf *out, int64_t now)
{
    if (lines->partial.len > 0) {
        if (!osb_buf_append(&lines->partial, bytes, len))
            return false;
        bytes = osb_buf_data(&lines->partial);
        len = lines->partial.len;
    }
    if (lines->session && len > 0 && bytes[len - 1] == '\r')
        len--;
    bool written = osb_event_text(out, lines->type, bytes, len, now);
    if (lines->partial.cap > SLICE)
        osb_buf_free(&lines->partial);
    else
        osb_buf_clear(&lines->partial);
    return written;
}

/* Keeps the begin of a line; emits what is above the limit, whole characters only. */
static bool keep_partial(struct osb_lines *lines, const char *bytes, size_t len, struct osb_buf *out, int64_t now)
{
    if (!osb_buf_append(&lines->partial, bytes, len))
        return false;
    if (lines->partial.len < OSB_LINE_MAX)
        return true;
    const char *text = osb_buf_data(&lines->partial);
    size_t part = lines->partial.len;
    for (size_t back = 1; back <= 3; back++) {
        unsigned char byte = (unsigned char)text[part - back];
        if (byte >= 0xc0) {
            part -= back;
            break;
        }
        if (byte < 0x80)
            break;
    }
    bool written = osb_event_text(out, lines->type, text, part, now);
    osb_buf_consume(&lines->partial, part);
    return written;
}

/* The first byte at or behind `at` that ends a line. */
static const char *line_end(const struct osb_lines *lines, const char *at, const char *end, const char **next_cr)
{
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    if (lines->session)
        return newline;
    if (*next_cr && *next_cr < at)
        *next_cr = memchr(at, '\r', (size_t)(end - at));
    return *next_cr && (!newline || *next_cr < newline) ? *next_cr : newline;
}

bool osb_lines_feed(struct osb_lines *lines, const char *bytes, size_t len, struct osb_buf *out)
{
    int64_t now = osb_event_time();
    const char *at = bytes, *end = bytes + len;
    const char *next_cr = memchr(bytes, '\r', len);
    while (at < end) {
        const char *stop = line_end(lines, at, end, &next_cr);
        if (!stop) {
            lines->after_cr = false;
            return keep_partial(lines, at, (size_t)(end - at), out, now);
        }
        size_t line = (size_t)(stop - at);
        if (line + lines->partial.len > 0 || lines->session) {
            if (!emit_line(lines, at, line, out, now))
                return false;
            lines->after_cr = false;
        } else if (!(*stop == '\n' && lines->after_cr)) {
            if (!osb_event_text(out, lines->type, "\n", 1, now))
                return false;
        }
        lines->after_cr = *stop == '\r';
        at = stop + 1;
    }
    return true;
}

bool osb_lines_finish(struct osb_lines *lines, struct osb_buf *out)
{
    bool written = lines->partial.len == 0 || emit_line(lines, "", 0, out, osb_event_time());
    osb_buf_free(&lines->partial);
    return written;
}
