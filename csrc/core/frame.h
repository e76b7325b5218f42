/* Splits the byte stream of an event response into frames. Pure: no Lua, no curl, no allocation.
 *
 * Two kinds of frame may come in any order:
 *   - Server-Sent Events: `data:`, `event:`, `id:` lines (others and comments are passed over), ended by a blank line;
 *   - bare JSON: a line whose first character after spaces is `{` or `[`, ended by its line end. It also ends an event
 *     that was not yet closed by a blank line.
 * Lines end with LF, CR or CRLF; a byte order mark at the start is skipped. How the bytes were cut into windows never
 * changes the frames. */
#ifndef OSB_FRAME_H
#define OSB_FRAME_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"

/* Longest event name and longest id, in bytes. */
#define OSB_FRAME_FIELD_LIMIT 512

/* What is known between calls. Offsets count from the start of the window. Only `limit` is for others to read. */
struct osb_frame {
    size_t limit;     /* longest frame in bytes, line ends within it included */
    size_t line;      /* where the line being read starts; 0 unless an event with data is open */
    size_t scanned;   /* no line end in line .. scanned */
    size_t line_feed; /* no LF in line .. line_feed */
    size_t data, data_len;
    size_t event_len, id_len;
    bool has_data, has_id;
    bool begun;          /* the byte order mark was looked for */
    bool after_carriage; /* an LF that comes next belongs to the line before */
    char event[OSB_FRAME_FIELD_LIMIT], id[OSB_FRAME_FIELD_LIMIT];
};

enum osb_frame_status {
    OSB_FRAME_MORE,    /* no whole frame in the window */
    OSB_FRAME_READY,   /* the view holds a frame */
    OSB_FRAME_TOO_LONG /* a frame over the limit, or a name or id over OSB_FRAME_FIELD_LIMIT; the stream cannot go on */
};

/* Data points into the window and is valid until its bytes are dropped; event and id are valid until the next call. */
struct osb_frame_view {
    struct osb_slice data, event, id;
    bool has_id;     /* an id was given since the frame before (it may be empty) */
    bool is_bare;    /* a line of JSON, else an event */
    bool terminated; /* false: the stream ended within this frame */
};

void osb_frame_init(struct osb_frame *frame, size_t limit);

/* Looks for the next frame in bytes[0..len): the bytes not yet consumed of the last window, unchanged, and what came
 * since. The caller drops *consumed bytes from the front afterwards, whatever the status. `eof` says that no more will
 * come: an unfinished last frame is then delivered. Several data lines are joined with LF in place, hence `bytes` is
 * written to. No byte is searched twice. */
enum osb_frame_status osb_frame_next(struct osb_frame *frame, char *bytes, size_t len, bool eof,
                                     struct osb_frame_view *view, size_t *consumed);

#endif
