/* Events of command streams as JSON text, byte for byte as Go's encoder writes them: a bare object and a blank line.
 * All return false when memory is out. Timestamps are ms since 1970. */
#ifndef OSB_EVENT_H
#define OSB_EVENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* Milliseconds since 1970. */
int64_t osb_event_time(void);

/* {"type":…,"text":…,"timestamp":…}. Bytes that aren't UTF-8 become U+FFFD. A text whose event would be above 16 MiB
 * gives several events. */
bool osb_event_text(struct osb_buf *out, const char *type, const char *text, size_t len, int64_t timestamp);

/* The ping that keeps streams alive. */
bool osb_event_ping(struct osb_buf *out);

/* {"type":"execution_complete",…}; `elapsed` ms are left out when 0. */
bool osb_event_complete(struct osb_buf *out, int64_t elapsed);

/* {"type":"error",…,"error":{"ename":"CommandExecError","evalue":value,"traceback":[trace]}}. */
bool osb_event_error(struct osb_buf *out, const char *value, const char *trace);

/* {"type":"execution_count",…}. */
bool osb_event_count(struct osb_buf *out, unsigned int count);

/* {"type":"result",…,"results":{…}} of a map from MIME types to values; "text/plain" is called "text" there. */
bool osb_event_result(struct osb_buf *out, const json_t *data);

/* The error event of {"ename":…,"evalue":…,"traceback":[…]}, strings. */
bool osb_event_failure(struct osb_buf *out, const json_t *failure);

/* Appends a JSON string with its quotes. */
bool osb_event_quote(struct osb_buf *out, const char *text, size_t len);

/* ---- lines ---- */

/* Splits output into lines. Zero-initialise; free `partial` in the end. */
struct osb_lines {
    const char *type; /* of the events */
    bool session;     /* rules of sessions: only \n ends a line, one \r before it is dropped, blank lines are left out;
                         else \n, \r and \r\n end lines, and a blank line's text is "\n" */
    bool after_cr;
    struct osb_buf partial; /* a line not ended yet; at most OSB_LINE_MAX bytes */
};

#define OSB_LINE_MAX ((size_t)16 << 20) /* longer lines are split */

/* Appends an event for every line completed by these bytes. */
bool osb_lines_feed(struct osb_lines *lines, const char *bytes, size_t len, struct osb_buf *out);

/* Appends the event of a last line without an end. */
bool osb_lines_finish(struct osb_lines *lines, struct osb_buf *out);

#endif
