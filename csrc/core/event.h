/* Reads one execd event, a JSON object, without building anything from it. */
#ifndef OSB_EVENT_H
#define OSB_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* Deepest nesting of objects and arrays, the outermost included. */
#define OSB_EVENT_DEPTH 1000

enum osb_event_type {
    OSB_EVENT_UNTYPED, /* no "type", or not a string: an error body at the end of a stream, a metrics line */
    OSB_EVENT_INIT,
    OSB_EVENT_STDOUT,
    OSB_EVENT_STDERR,
    OSB_EVENT_RESULT,
    OSB_EVENT_ERROR,
    OSB_EVENT_STATUS,
    OSB_EVENT_COUNT,
    OSB_EVENT_COMPLETE,
    OSB_EVENT_PING,
    OSB_EVENT_OTHER /* a type not known here */
};

/* A field is absent where its value has another type than it should. Slices point into the JSON or the scratch buffer.
 */
struct osb_event {
    enum osb_event_type type;
    struct osb_slice type_name; /* as sent; empty where untyped */
    struct osb_slice text;
    bool has_text;
    int64_t timestamp_ms; /* Unix time */
    bool has_timestamp;
    int64_t execution_time_ms;
    bool has_execution_time;
    int64_t execution_count;
    bool has_execution_count;
};

/* Decodes json[0..len), which need not end with a NUL: one JSON object, white space around it allowed. Other fields are
 * checked to be JSON and passed over. Strings with escapes are unescaped into `scratch`, which is emptied first; bytes
 * from 0x80 up are taken as they are, a lone surrogate becomes U+FFFD, \u0000 a NUL byte. Of equal keys the last wins.
 * Numbers with a fraction are rounded down; those that do not fit into 64 bits are absent.
 * Returns 0, or -1 for anything else than one valid object, or when memory is out. */
int osb_event_decode(const char *json, size_t len, struct osb_buf *scratch, struct osb_event *event);

/* The type's name on the wire; "" for OSB_EVENT_UNTYPED and OSB_EVENT_OTHER. A constant. */
const char *osb_event_type_name(enum osb_event_type type);

#endif
