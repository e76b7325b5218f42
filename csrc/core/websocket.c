#include "websocket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core.h"
#include "error.h"

#define OUT_PIECE ((size_t)256 << 10) /* bytes of frames handed to libcurl at a time */
#define MAX_FRAGMENTS 65536           /* frames of one message: each costs memory beyond its bytes */
#define LINGER_SECONDS 2.0            /* for the peer to end the connection after the closing handshake */
#define STALL_SECONDS 1.0             /* a look that comes this late says nothing of the peer: nobody ran the loop */

/* ---- ending ---- */

/* No message comes any more; the connection stays for a moment, for what is still to be sent. */
static void end(struct osb_websocket *ws)
{
    if (!ws->ended)
        ws->linger = osb_core_now() + LINGER_SECONDS;
    ws->ended = true;
}

static void fail(struct osb_websocket *ws, const char *code, const char *text)
{
    if (!ws->failure && !ws->closing) {
        ws->failure = code;
        snprintf(ws->failure_text, sizeof ws->failure_text, "%s", text);
    }
    end(ws);
}

static void drop_connection(struct osb_websocket *ws)
{
    end(ws);
    osb_transfer_free(ws->transfer);
    ws->transfer = NULL;
    osb_loop_arm(&ws->source, OSB_NEVER);
    osb_loop_ready(&ws->source);
}

/* The connection is over; says why, unless a closing frame has. */
static void end_of_connection(struct osb_websocket *ws)
{
    const struct osb_transfer *transfer = ws->transfer;
    if (wslay_event_get_close_received(ws->frames))
        end(ws);
    else if (transfer->failure)
        fail(ws, transfer->failure, transfer->failure_text);
    else if (transfer->result != CURLE_OK)
        fail(ws, osb_error_from_curl(transfer->result).code,
             transfer->error_text[0] ? transfer->error_text : curl_easy_strerror(transfer->result));
    else
        fail(ws, "truncated", "the connection ended without a closing handshake");
    drop_connection(ws);
}

/* libwslay reads no more: there was a closing frame, or a frame against the protocol, which it answers by a code. */
static void end_of_frames(struct osb_websocket *ws)
{
    end(ws);
    if (wslay_event_get_close_received(ws->frames) || ws->failure)
        return;
    unsigned code = wslay_event_get_close_sent(ws->frames) ? wslay_event_get_status_code_sent(ws->frames) : 0;
    if (code == WSLAY_CODE_MESSAGE_TOO_BIG)
        fail(ws, "limit", "the peer sent a message longer than 16 MiB");
    else if (code == WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA)
        fail(ws, "protocol", "the peer sent text that is not UTF-8");
    else
        fail(ws, "protocol", "the peer broke the WebSocket protocol");
}

/* ---- libwslay's callbacks: bytes come from the transfer's buffers and go there ---- */

static size_t pending_out(const struct osb_websocket *ws)
{
    return ws->transfer->out.len + wslay_event_get_queued_msg_length(ws->frames);
}

static ssize_t on_recv(wslay_event_context_ptr frames, uint8_t *bytes, size_t len, int flags, void *user)
{
    struct osb_websocket *ws = user;
    struct osb_buf *in = &ws->transfer->in;
    (void)flags;
    /* a peer that sends pings and takes no answers is not read from either */
    if (in->len == 0 || ws->queued >= OSB_QUEUE_LIMIT || pending_out(ws) >= OSB_QUEUE_LIMIT) {
        wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (len > in->len)
        len = in->len;
    memcpy(bytes, osb_buf_data(in), len);
    osb_buf_consume(in, len);
    return (ssize_t)len;
}

static ssize_t on_send(wslay_event_context_ptr frames, const uint8_t *bytes, size_t len, int flags, void *user)
{
    struct osb_websocket *ws = user;
    (void)flags;
    if (ws->transfer->out.len >= OUT_PIECE) {
        wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (!osb_buf_append(&ws->transfer->out, bytes, len)) {
        wslay_event_set_error(frames, WSLAY_ERR_CALLBACK_FAILURE);
        return -1;
    }
    return (ssize_t)len;
}

static int on_mask(wslay_event_context_ptr frames, uint8_t *bytes, size_t len, void *user)
{
    (void)user;
    if (getentropy(bytes, len) == 0)
        return 0;
    wslay_event_set_error(frames, WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static void on_frame(wslay_event_context_ptr frames, const struct wslay_event_on_frame_recv_start_arg *arg, void *user)
{
    struct osb_websocket *ws = user;
    if (wslay_is_ctrl_frame(arg->opcode))
        return;
    ws->fragments = arg->opcode == WSLAY_CONTINUATION_FRAME ? ws->fragments + 1 : 1;
    if (ws->fragments > MAX_FRAGMENTS) {
        fail(ws, "limit", "the peer sent a message in too many pieces");
        wslay_event_shutdown_read(frames);
    }
}

static void on_message(wslay_event_context_ptr frames, const struct wslay_event_on_msg_recv_arg *arg, void *user)
{
    struct osb_websocket *ws = user;
    if (arg->opcode == WSLAY_CONNECTION_CLOSE) {
        ws->close_code = wslay_event_get_status_code_received(frames);
        ws->reason_len = arg->msg_length > 2 ? arg->msg_length - 2 : 0;
        memcpy(ws->reason, arg->msg_length > 2 ? arg->msg + 2 : (const uint8_t *)"", ws->reason_len);
    }
    if (wslay_is_ctrl_frame(arg->opcode) || ws->closing)
        return;
    struct osb_websocket_message *message = malloc(sizeof *message + arg->msg_length);
    if (!message) {
        fail(ws, "limit", "out of memory");
        wslay_event_shutdown_read(frames);
        return;
    }
    message->next = NULL;
    message->is_text = arg->opcode == WSLAY_TEXT_FRAME;
    message->len = arg->msg_length;
    if (arg->msg_length > 0)
        memcpy(message->bytes, arg->msg, arg->msg_length);
    if (ws->last)
        ws->last->next = message;
    else
        ws->first = message;
    ws->last = message;
    ws->queued += sizeof *message + message->len;
}

/* ---- moving bytes ---- */

/* Makes messages of what came and frames of what is to go, as far as the queues allow. */
static void pump(struct osb_websocket *ws)
{
    struct osb_transfer *transfer = ws->transfer;
    if (!transfer)
        return;
    int problem = ws->ended ? 0 : wslay_event_recv(ws->frames);
    if (wslay_event_send(ws->frames) != 0 || problem == WSLAY_ERR_NOMEM)
        fail(ws, "limit", "out of memory");
    if (!ws->ended && !wslay_event_want_read(ws->frames))
        end_of_frames(ws);
    if (ws->ended)
        osb_buf_clear(&transfer->in); /* nobody reads it, and it must not hold up the end of the connection */
    if (transfer->out.len > 0)
        osb_transfer_pushed(transfer);
    osb_transfer_resume(transfer);
    if (transfer->done && transfer->in.len == 0)
        end_of_connection(ws);
    osb_loop_ready(&ws->source);
}

/* ---- clocks ---- */

/* Whether the peer is alive; a peer that was silent for an interval is asked by a ping. */
static void look(struct osb_websocket *ws, double now)
{
    const struct osb_transfer *transfer = ws->transfer;
    bool unread = ws->queued >= OSB_QUEUE_LIMIT; /* then it is our reader who holds things up */
    bool heard = transfer->received != ws->received_then || now > ws->tick + STALL_SECONDS;
    ws->received_then = transfer->received;
    ws->tick = now + ws->interval;
    if (unread || heard) {
        ws->pinged = false;
    } else if (ws->pinged) {
        char text[sizeof ws->failure_text];
        snprintf(text, sizeof text, "the peer was silent for %g s and answered no ping", 2 * ws->interval);
        fail(ws, "timeout", text);
        drop_connection(ws);
    } else {
        static const struct wslay_event_msg ping = {.opcode = WSLAY_PING};
        ws->pinged = wslay_event_queue_msg(ws->frames, &ping) == 0;
        pump(ws);
    }
}

static void on_due(struct osb_source *source, double now)
{
    struct osb_websocket *ws = (struct osb_websocket *)source;
    pump(ws);
    if (ws->transfer && now >= ws->linger)
        drop_connection(ws);
    if (ws->transfer && !ws->ended && now >= ws->tick)
        look(ws, now);
    double due = ws->ended ? ws->linger : ws->tick;
    if (ws->transfer && due < source->due)
        osb_loop_arm(source, due);
}

static void on_loop_close(struct osb_source *source)
{
    struct osb_websocket *ws = (struct osb_websocket *)source;
    fail(ws, "closed", "the Lua state is closing");
    osb_loop_remove(source);
}

/* ---- life ---- */

struct osb_websocket *osb_websocket_new(struct osb_transfer *transfer, double interval)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv,
        .send_callback = on_send,
        .genmask_callback = on_mask,
        .on_frame_recv_start_callback = on_frame,
        .on_msg_recv_callback = on_message,
    };
    struct osb_websocket *ws = calloc(1, sizeof *ws);
    if (!ws || wslay_event_context_client_init(&ws->frames, &callbacks, ws) != 0) {
        free(ws);
        osb_transfer_free(transfer);
        return NULL;
    }
    wslay_event_config_set_max_recv_msg_length(ws->frames, OSB_WEBSOCKET_MESSAGE_LIMIT);
    ws->transfer = transfer;
    ws->close_code = WSLAY_CODE_ABNORMAL_CLOSURE;
    ws->interval = interval;
    ws->tick = interval > 0 ? osb_core_now() + interval : OSB_NEVER;
    ws->linger = OSB_NEVER;
    ws->source.on_due = on_due;
    ws->source.on_loop_close = on_loop_close;
    osb_loop_add(transfer->source.loop, &ws->source);
    /* from here on the timer is never disarmed while there is a connection, so that arming it needs no memory */
    if (!osb_loop_arm(&ws->source, 0)) {
        osb_websocket_free(ws);
        return NULL;
    }
    osb_transfer_own(transfer, &ws->source);
    return ws;
}

void osb_websocket_drop(struct osb_websocket *ws)
{
    ws->closing = true;
    drop_connection(ws);
    while (ws->first) {
        struct osb_websocket_message *message = ws->first;
        ws->first = message->next;
        free(message);
    }
    ws->last = NULL;
}

void osb_websocket_free(struct osb_websocket *ws)
{
    if (!ws || (ws->source.loop && osb_loop_is_foreign(ws->source.loop)))
        return;
    osb_websocket_drop(ws);
    osb_loop_remove(&ws->source);
    wslay_event_context_free(ws->frames);
    free(ws);
}

/* ---- reading and writing ---- */

static bool await(struct osb_websocket *ws, bool ready)
{
    if (!ready)
        ws->source.awaited = true;
    return ready;
}

bool osb_websocket_is_ready(struct osb_websocket *ws)
{
    return await(ws, ws->first || ws->ended);
}

bool osb_websocket_is_writable(struct osb_websocket *ws)
{
    return await(ws, ws->ended || ws->closing || pending_out(ws) < OSB_QUEUE_LIMIT);
}

bool osb_websocket_is_settled(struct osb_websocket *ws)
{
    const struct osb_transfer *transfer = ws->transfer;
    return await(ws, !transfer || (ws->ended && wslay_event_get_close_sent(ws->frames) && transfer->out.len == 0 &&
                                   transfer->out_starved));
}

struct osb_websocket_message *osb_websocket_take(struct osb_websocket *ws)
{
    struct osb_websocket_message *message = ws->first;
    if (!message)
        return NULL;
    ws->first = message->next;
    if (!ws->first)
        ws->last = NULL;
    ws->queued -= sizeof *message + message->len;
    if (!ws->ended && (ws->transfer->in.len > 0 || ws->transfer->paused))
        pump(ws);
    return message;
}

bool osb_websocket_send(struct osb_websocket *ws, bool is_text, const char *bytes, size_t len)
{
    struct wslay_event_msg message = {
        .opcode = is_text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, .msg = (const uint8_t *)bytes, .msg_length = len};
    if (ws->ended || wslay_event_queue_msg(ws->frames, &message) != 0)
        return false;
    pump(ws);
    return true;
}

bool osb_websocket_close(struct osb_websocket *ws, unsigned code, const char *reason, size_t len)
{
    bool known = (code >= 1000 && code <= 1011 && code != 1004 && code != 1005 && code != 1006) ||
                 (code >= 3000 && code <= 4999);
    if (!known || len > OSB_WEBSOCKET_REASON_LIMIT)
        return false;
    if (!ws->ended && !ws->closing) {
        if (wslay_event_queue_close(ws->frames, (uint16_t)code, (const uint8_t *)reason, len) != 0)
            fail(ws, "limit", "out of memory");
        ws->closing = true;
        pump(ws);
    }
    return true;
}
