/* A WebSocket client on a transfer whose server switched protocols: libcurl carries the bytes (so TLS, proxies and
   headers are those of any request), libwslay makes frames of them. websocket.c runs it, websocket_lua.c is what Lua
   sees. */
#ifndef OSB_WEBSOCKET_H
#define OSB_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <wslay/wslay.h>

#include "loop.h"
#include "transfer.h"

#define OSB_WEBSOCKET_MESSAGE_LIMIT ((size_t)16 << 20) /* longest message, either way */
#define OSB_WEBSOCKET_REASON_LIMIT 123                 /* bytes of a reason for closing */

struct osb_websocket_message {
    struct osb_websocket_message *next;
    bool is_text;
    size_t len;
    char bytes[];
};

struct osb_websocket {
    struct osb_source source;      /* first: the loop hands it back */
    struct osb_transfer *transfer; /* NULL once the connection was dropped */
    wslay_event_context_ptr frames;

    struct osb_websocket_message *first, *last; /* received, not taken */
    size_t queued;                              /* their memory */
    unsigned fragments;                         /* frames of the message that is being received */

    double interval;          /* seconds between two looks at whether the peer is alive; 0 = never */
    double tick;              /* the next look */
    curl_off_t received_then; /* bytes received at the last one */
    bool pinged;              /* and nothing came since */

    bool closing;  /* our side asked to close */
    bool ended;    /* no message comes any more */
    double linger; /* when the connection is dropped, once it ended */
    unsigned close_code;
    size_t reason_len;
    char reason[OSB_WEBSOCKET_REASON_LIMIT];
    const char *failure; /* code of what ended it, or NULL */
    char failure_text[256];
};

/* Takes over a transfer that got a 101; the caller must not use it again. `interval` is in seconds. NULL when memory is
   out: then the transfer is freed. */
struct osb_websocket *osb_websocket_new(struct osb_transfer *transfer, double interval);

/* Drops the connection, without a closing handshake, and what was not taken. Idempotent. */
void osb_websocket_drop(struct osb_websocket *ws);

/* The same, and frees everything. NULL is fine. Leaked in a forked child. */
void osb_websocket_free(struct osb_websocket *ws);

/* Whether there is a message to take, or none will come. Not ready = now awaited. */
bool osb_websocket_is_ready(struct osb_websocket *ws);

/* Whether `send` may be called (or is over). Not writable = now awaited. */
bool osb_websocket_is_writable(struct osb_websocket *ws);

/* Whether nothing is left to be sent or heard: the closing handshake is complete. Not settled = now awaited. */
bool osb_websocket_is_settled(struct osb_websocket *ws);

/* The oldest message, which the caller frees; NULL when there is none. */
struct osb_websocket_message *osb_websocket_take(struct osb_websocket *ws);

/* Queues a copy of a message. False when memory is out or it has ended. */
bool osb_websocket_send(struct osb_websocket *ws, bool is_text, const char *bytes, size_t len);

/* Asks to close: what was queued before is sent first, what still comes is dropped. False for a code or reason that
   the protocol forbids. True when it was closing or has ended already. */
bool osb_websocket_close(struct osb_websocket *ws, unsigned code, const char *reason, size_t len);

#endif
