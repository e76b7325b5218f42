/* One HTTP exchange. transfer.c runs it; transfer_options.c builds it from an options table; transfer_lua.c is what Lua
   sees. libcurl's callbacks only move bytes between its buffers and ours. */
#ifndef OSB_TRANSFER_H
#define OSB_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#include "../common/buf.h"
#include "frame.h"
#include "loop.h"

#define OSB_TRANSFER_NAME "opensandbox.transfer"
#define OSB_QUEUE_LIMIT ((size_t)1 << 20)       /* bytes queued before the transfer is paused */
#define OSB_FRAME_LIMIT ((size_t)16 << 20)      /* longest event */
#define OSB_ERROR_BODY_LIMIT ((size_t)64 << 10) /* kept of the body of an error answer */

enum osb_sink {
    OSB_SINK_BUFFER, /* whole body in memory, at most body_limit */
    OSB_SINK_QUEUE,  /* bounded queue that Lua reads */
    OSB_SINK_FILE,   /* straight into a descriptor */
};

/* one streamed part of a multipart body, or the streamed body itself */
struct osb_upload_source {
    struct osb_transfer *transfer;
    unsigned index;
};

struct osb_transfer {
    struct osb_source source; /* first: the loop hands it back */
    struct osb_source *owner; /* whoever took it over: told of every change by its on_due; else NULL */
    CURL *easy;
    struct curl_slist *headers;
    curl_mime *mime;
    struct osb_upload_source *upload_sources;
    char error_text[CURL_ERROR_SIZE];

    enum osb_sink sink;
    int file_fd;
    struct osb_buf in;
    size_t body_limit;
    curl_off_t received, sent;

    struct osb_buf out;
    unsigned out_index; /* which streamed part `out` is for */
    unsigned out_count; /* how many there are */
    bool out_ended;     /* all of the current part was pushed */
    bool out_starved;   /* libcurl asked for more and was paused */

    bool paused, starved; /* receiving is paused; the reader found no whole frame in `in` */
    bool headers_seen, headers_new;
    bool done, draining;
    bool progressed;
    CURLcode result;
    long status;
    const char *failure; /* our own failure code, or NULL */
    char failure_text[160];

    curl_off_t progress_step, progress_last;
    double deadline;                                        /* absolute, OSB_NEVER = none */
    double header_timeout, idle_timeout, ping_idle_timeout; /* seconds, 0 = none */
    double activity;                                        /* last byte either way, or when the reader began to wait */

    bool is_upgrade;     /* a 101 is the answer; its body goes on as long as the connection */
    bool once;           /* the request must not be sent twice, even over a connection gone stale */
    bool sent_once;      /* it is being sent */
    bool is_line_stream; /* a text of "\n" stands for a blank line */
    struct osb_frame frame;
    struct osb_buf scratch;
};

/* Allocates a transfer with an easy handle that has our callbacks; NULL when memory is out. Not in the loop yet. */
struct osb_transfer *osb_transfer_new(void);

/* Puts it into the loop and starts it. False when libcurl refuses (failure is set). */
bool osb_transfer_start(struct osb_transfer *transfer, struct osb_loop *loop);

/* Ends it, wherever it is, and frees it. NULL is fine. In a forked child it is leaked. */
void osb_transfer_free(struct osb_transfer *transfer);

/* Gives it up without losing the connection: read on for a moment in the background, or freed at once when that is not
   worth it. The caller must not use it again. */
void osb_transfer_drain(struct osb_transfer *transfer);

/* Hands it over to `owner`, which reads `in` and writes `out` from now on: its own clocks stop. */
void osb_transfer_own(struct osb_transfer *transfer, struct osb_source *owner);

/* transfer_lua.c: takes the transfer out of the userdata at `index`, which is an ended one then. */
struct osb_transfer *osb_transfer_take(lua_State *L, int index);

/* Ends it with one of our own failures. Idempotent. */
void osb_transfer_fail(struct osb_transfer *transfer, const char *code, const char *text);

/* Whether the reader has something to do: headers, bytes (a frame), progress, or the end. Not ready = now awaited. */
bool osb_transfer_is_ready(struct osb_transfer *transfer);

/* Whether more of an upload can be pushed (or pushing is over). Not writable = now awaited. */
bool osb_transfer_is_writable(struct osb_transfer *transfer);

/* After bytes of `in` were consumed: lets a paused transfer go on. */
void osb_transfer_resume(struct osb_transfer *transfer);

/* After `out` got bytes or its end: lets a starved upload go on. */
void osb_transfer_pushed(struct osb_transfer *transfer);

/* transfer_options.c: sets it up from the options table at `index`; raises on misuse, false (failure is set) when a
   file can't be opened or memory is out. */
bool osb_transfer_configure(lua_State *L, int index, struct osb_transfer *transfer);

/* libcurl's read callback for streamed uploads; user is a struct osb_upload_source. */
size_t osb_transfer_read(char *buffer, size_t size, size_t count, void *user);

#endif
