#include "frame.h"

#include <string.h>

static const char byte_order_mark[] = "\xef\xbb\xbf";

void osb_frame_init(struct osb_frame *frame, size_t limit)
{
    memset(frame, 0, sizeof(*frame));
    frame->limit = limit;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The end of the current line: the offset of its CR or LF, or `len` where neither is there yet. Remembers how far it
 * looked for each of the two, so that neither many short windows nor lines ended by CR alone cost a second look. */
static size_t find_line_end(struct osb_frame *frame, const char *bytes, size_t len)
{
    size_t from = larger(frame->line_feed, frame->line);
    const char *found = memchr(bytes + from, '\n', len - from);
    frame->line_feed = found ? (size_t)(found - bytes) : len;
    from = larger(frame->scanned, frame->line);
    found = memchr(bytes + from, '\r', frame->line_feed - from);
    frame->scanned = found ? (size_t)(found - bytes) : frame->line_feed;
    return frame->scanned;
}

/* Where the JSON of a bare line starts, or NULL where the line is not bare. */
static const char *bare_start(const char *line, size_t len)
{
    const char *end = line + len;
    while (line < end && (*line == ' ' || *line == '\t'))
        line++;
    return line < end && (*line == '{' || *line == '[') ? line : NULL;
}

/* True where the line is the field `name`; then gives its value, without the one space that may follow the colon. */
static bool match_field(const char *line, size_t len, const char *name, size_t name_len, struct osb_slice *value)
{
    if (len < name_len || memcmp(line, name, name_len) != 0 || (len > name_len && line[name_len] != ':'))
        return false;
    size_t skip = len == name_len ? len : name_len + 1;
    if (skip < len && line[skip] == ' ')
        skip++;
    *value = (struct osb_slice){line + skip, len - skip};
    return true;
}

/* Takes one line of an event, bytes[frame->line..end). False: a name or id longer than its limit. */
static bool take_field(struct osb_frame *frame, char *bytes, size_t end)
{
    const char *line = bytes + frame->line;
    size_t len = end - frame->line;
    struct osb_slice value;
    if (match_field(line, len, "data", 4, &value)) {
        if (frame->has_data) {
            /* "data:" is longer than the LF that takes its place, so the value only moves towards the front */
            char *to = bytes + frame->data + frame->data_len;
            *to = '\n';
            memmove(to + 1, value.ptr, value.len);
            frame->data_len += 1 + value.len;
        } else {
            frame->data = (size_t)(value.ptr - bytes);
            frame->data_len = value.len;
            frame->has_data = true;
        }
    } else if (match_field(line, len, "event", 5, &value)) {
        if (value.len > sizeof(frame->event))
            return false;
        memcpy(frame->event, value.ptr, value.len);
        frame->event_len = value.len;
    } else if (match_field(line, len, "id", 2, &value)) {
        if (value.len > sizeof(frame->id))
            return false;
        if (memchr(value.ptr, '\0', value.len) == NULL) { /* the standard ignores an id with a NUL */
            memcpy(frame->id, value.ptr, value.len);
            frame->id_len = value.len;
            frame->has_id = true;
        }
    }
    return true;
}

static void deliver_event(struct osb_frame *frame, char *bytes, bool terminated, struct osb_frame_view *view)
{
    *view = (struct osb_frame_view){
        .data = {bytes + frame->data, frame->data_len},
        .event = {frame->event, frame->event_len},
        .id = {frame->id, frame->id_len},
        .has_id = frame->has_id,
        .terminated = terminated,
    };
    frame->has_data = false;
    frame->has_id = false;
    frame->event_len = 0;
    frame->id_len = 0;
}

static size_t reduce(size_t offset, size_t count)
{
    return offset > count ? offset - count : 0;
}

/* Makes the offsets count from `count`: the caller drops that many bytes. */
static enum osb_frame_status finish(struct osb_frame *frame, enum osb_frame_status status, size_t count,
                                    size_t *consumed)
{
    frame->line = reduce(frame->line, count);
    frame->scanned = reduce(frame->scanned, count);
    frame->line_feed = reduce(frame->line_feed, count);
    frame->data = reduce(frame->data, count);
    *consumed = count;
    return status;
}

/* False: the window is too short to tell. */
static bool skip_byte_order_mark(struct osb_frame *frame, const char *bytes, size_t len, bool eof)
{
    size_t mark = sizeof(byte_order_mark) - 1;
    size_t have = len < mark ? len : mark;
    bool matches = memcmp(bytes, byte_order_mark, have) == 0;
    if (matches && have < mark && !eof)
        return false;
    frame->begun = true;
    frame->line = matches && have == mark ? mark : 0;
    return true;
}

/* Passes over the second half of a CRLF and, where no event is open, over blank lines. */
static void skip_line_ends(struct osb_frame *frame, const char *bytes, size_t len)
{
    if (frame->after_carriage && frame->line < len) {
        frame->after_carriage = false;
        if (bytes[frame->line] == '\n')
            frame->line++;
    }
    if (frame->has_data)
        return;
    while (frame->line < len && (bytes[frame->line] == '\n' || bytes[frame->line] == '\r')) {
        frame->line++;
        frame->event_len = 0;
    }
}

enum osb_frame_status osb_frame_next(struct osb_frame *frame, char *bytes, size_t len, bool eof,
                                     struct osb_frame_view *view, size_t *consumed)
{
    if (!frame->begun && !skip_byte_order_mark(frame, bytes, len, eof))
        return finish(frame, OSB_FRAME_MORE, 0, consumed);
    size_t start = 0; /* of the open event, or of the line where none is open */
    for (;;) {
        skip_line_ends(frame, bytes, len);
        if (!frame->has_data)
            start = frame->line;
        size_t end = find_line_end(frame, bytes, len);
        if (end - start > frame->limit)
            return finish(frame, OSB_FRAME_TOO_LONG, start, consumed);
        if (end == len && !eof)
            return finish(frame, OSB_FRAME_MORE, start, consumed);
        bool terminated = end < len;
        size_t line_len = end - frame->line;
        const char *json = bare_start(bytes + frame->line, line_len);
        if (frame->has_data && (json || line_len == 0)) {
            if (!json && terminated)
                frame->line = end + 1;
            deliver_event(frame, bytes, json || terminated, view);
            return finish(frame, OSB_FRAME_READY, frame->line, consumed);
        }
        if (!json && line_len == 0) /* at the very end */
            return finish(frame, OSB_FRAME_MORE, len, consumed);
        if (!json && !take_field(frame, bytes, end))
            return finish(frame, OSB_FRAME_TOO_LONG, start, consumed);
        frame->after_carriage = terminated && bytes[end] == '\r';
        frame->line = terminated ? end + 1 : len;
        if (json) {
            *view = (struct osb_frame_view){
                .data = {json, (size_t)(bytes + end - json)}, .is_bare = true, .terminated = terminated};
            frame->event_len = 0;
            skip_line_ends(frame, bytes, len);
            return finish(frame, OSB_FRAME_READY, frame->line, consumed);
        }
    }
}
