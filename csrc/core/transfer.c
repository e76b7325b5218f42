#include "transfer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core.h"

#define MAX_DRAINS 8
#define DRAIN_SECONDS 2.0

/* ---- clocks ---- */

/* When the earliest of its time-outs falls due, as things stand now. */
static double next_due(const struct osb_transfer *transfer)
{
    double due = transfer->deadline;
    double timeout = transfer->headers_seen ? transfer->idle_timeout : transfer->header_timeout;
    bool ticking = !transfer->headers_seen || (transfer->source.awaited && !transfer->paused);
    if (timeout > 0 && ticking && transfer->activity + timeout < due)
        due = transfer->activity + timeout;
    return due;
}

/* Arms the timer when it would ring too late; one that rings early re-arms itself. */
static void arm(struct osb_transfer *transfer)
{
    double due = next_due(transfer);
    if (due < transfer->source.due && !osb_loop_arm(&transfer->source, due))
        osb_transfer_fail(transfer, "limit", "out of memory");
}

static void on_due(struct osb_source *source, double now)
{
    struct osb_transfer *transfer = (struct osb_transfer *)source;
    if (transfer->done)
        return;
    if (transfer->draining) {
        osb_transfer_free(transfer);
        return;
    }
    if (transfer->out_ended)
        osb_transfer_pushed(transfer);
    if (now >= transfer->deadline) {
        osb_transfer_fail(transfer, "timeout", "the time allowed for the call is over");
    } else if (next_due(transfer) <= now) {
        char text[sizeof transfer->failure_text];
        if (transfer->headers_seen)
            snprintf(text, sizeof text, "nothing was received for %g s", transfer->idle_timeout);
        else
            snprintf(text, sizeof text, "no answer within %g s", transfer->header_timeout);
        osb_transfer_fail(transfer, "timeout", text);
    } else {
        arm(transfer);
    }
}

/* Tells whoever waits, or whoever it belongs to, that something came, went or ended. */
static void changed(struct osb_transfer *transfer)
{
    if (transfer->owner)
        osb_loop_arm(transfer->owner, 0);
    osb_loop_ready(&transfer->source);
}

void osb_transfer_own(struct osb_transfer *transfer, struct osb_source *owner)
{
    transfer->owner = owner;
    transfer->deadline = OSB_NEVER;
    transfer->idle_timeout = 0;
    transfer->ping_idle_timeout = 0;
    osb_loop_arm(&transfer->source, OSB_NEVER);
}

/* ---- libcurl's callbacks ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct osb_transfer *transfer = user;
    size_t len = size * count;
    transfer->activity = osb_core_now();
    if (transfer->draining)
        return len;
    bool is_error = transfer->status >= 300;
    if (transfer->sink == OSB_SINK_FILE && !is_error) {
        for (size_t written = 0; written < len;) {
            ssize_t n = write(transfer->file_fd, bytes + written, len - written);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0) {
                transfer->failure = "io";
                snprintf(transfer->failure_text, sizeof transfer->failure_text, "the local file can't be written: %s",
                         strerror(errno));
                return 0;
            }
            written += (size_t)n;
        }
        transfer->received += (curl_off_t)len;
        return len;
    }
    if (is_error) {
        size_t room = transfer->in.len < OSB_ERROR_BODY_LIMIT ? OSB_ERROR_BODY_LIMIT - transfer->in.len : 0;
        if (!osb_buf_append(&transfer->in, bytes, len < room ? len : room))
            return 0;
        return len;
    }
    if (transfer->sink == OSB_SINK_BUFFER && transfer->in.len + len > transfer->body_limit) {
        transfer->failure = "limit";
        snprintf(transfer->failure_text, sizeof transfer->failure_text, "the answer is longer than %zu bytes",
                 transfer->body_limit);
        return 0;
    }
    /* a starved reader needs more to complete a frame, so the queue may grow beyond its limit, up to the frame's */
    if (transfer->sink == OSB_SINK_QUEUE && !transfer->starved && transfer->in.len + len > OSB_QUEUE_LIMIT) {
        transfer->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (!osb_buf_append(&transfer->in, bytes, len)) {
        transfer->failure = "limit";
        snprintf(transfer->failure_text, sizeof transfer->failure_text, "out of memory");
        return 0;
    }
    transfer->received += (curl_off_t)len;
    if (transfer->sink == OSB_SINK_QUEUE) {
        transfer->starved = false;
        changed(transfer);
    }
    return len;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *user)
{
    struct osb_transfer *transfer = user;
    size_t len = size * count;
    transfer->activity = osb_core_now();
    if (len <= 2 && (len == 0 || bytes[0] == '\r' || bytes[0] == '\n')) {
        long status = 0;
        curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 200 || (status == 101 && transfer->is_upgrade)) {
            transfer->status = status;
            transfer->headers_seen = true;
            transfer->headers_new = true;
            /* libcurl stops sending then, but not while it waits for more to send: the answer would have no end */
            if (status >= 300 && transfer->out_starved) {
                transfer->out_ended = true;
                osb_transfer_pushed(transfer);
            }
            osb_loop_ready(&transfer->source);
        }
    }
    return len;
}

size_t osb_transfer_read(char *buffer, size_t size, size_t count, void *user)
{
    const struct osb_upload_source *upload = user;
    struct osb_transfer *transfer = upload->transfer;
    size_t len = size * count;
    if (upload->index != transfer->out_index)
        return CURL_READFUNC_ABORT;
    if (len > transfer->out.len)
        len = transfer->out.len;
    if (len > 0) {
        memcpy(buffer, osb_buf_data(&transfer->out), len);
        osb_buf_consume(&transfer->out, len);
        transfer->activity = osb_core_now();
    } else if (transfer->out_ended) {
        transfer->out_index++;
        transfer->out_ended = false;
    } else {
        transfer->out_starved = true;
        len = CURL_READFUNC_PAUSE;
    }
    if (transfer->out.len < OSB_QUEUE_LIMIT / 2)
        changed(transfer);
    return len;
}

static int on_progress(void *user, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    struct osb_transfer *transfer = user;
    (void)down_total;
    (void)up_total;
    if (up != transfer->sent)
        transfer->activity = osb_core_now();
    transfer->sent = up;
    if (transfer->progress_step > 0 && down + up - transfer->progress_last >= transfer->progress_step) {
        transfer->progress_last = down + up;
        transfer->progressed = true;
        osb_loop_ready(&transfer->source);
    }
    return 0;
}

/* libcurl is about to send the request. It would send it again where a kept connection breaks before an answer. */
static int on_request(void *user, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    struct osb_transfer *transfer = user;
    (void)remote_ip;
    (void)local_ip;
    (void)remote_port;
    (void)local_port;
    if (transfer->once && transfer->sent_once) {
        transfer->failure = "network";
        snprintf(transfer->failure_text, sizeof transfer->failure_text,
                 "the connection broke after the request was sent, before an answer came");
        return CURL_PREREQFUNC_ABORT;
    }
    transfer->sent_once = true;
    return CURL_PREREQFUNC_OK;
}

/* ---- life ---- */

static void on_loop_close(struct osb_source *source)
{
    struct osb_transfer *transfer = (struct osb_transfer *)source;
    if (transfer->draining) {
        osb_transfer_free(transfer);
        return;
    }
    osb_transfer_fail(transfer, "closed", "the Lua state is closing");
    osb_loop_remove(source);
}

struct osb_transfer *osb_transfer_new(void)
{
    struct osb_transfer *transfer = calloc(1, sizeof *transfer);
    if (!transfer)
        return NULL;
    transfer->easy = curl_easy_init();
    if (!transfer->easy) {
        free(transfer);
        return NULL;
    }
    transfer->source.on_due = on_due;
    transfer->source.on_loop_close = on_loop_close;
    transfer->file_fd = -1;
    transfer->deadline = OSB_NEVER;
    transfer->body_limit = (size_t)256 << 20;
    osb_frame_init(&transfer->frame, OSB_FRAME_LIMIT);
    CURL *easy = transfer->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error_text);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_request);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, (void *)transfer);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, 25L);
    return transfer;
}

bool osb_transfer_start(struct osb_transfer *transfer, struct osb_loop *loop)
{
    osb_loop_add(loop, &transfer->source);
    transfer->activity = osb_core_now();
    CURLMcode code = curl_multi_add_handle(osb_loop_multi(loop), transfer->easy);
    if (code != CURLM_OK) {
        osb_loop_remove(&transfer->source);
        transfer->failure = "network";
        snprintf(transfer->failure_text, sizeof transfer->failure_text, "%s", curl_multi_strerror(code));
        return false;
    }
    arm(transfer);
    return true;
}

/* Takes it out of libcurl and the loop's clocks; results stay readable. */
static void stop(struct osb_transfer *transfer)
{
    struct osb_loop *loop = transfer->source.loop;
    transfer->done = true;
    if (!loop)
        return;
    osb_loop_arm(&transfer->source, OSB_NEVER);
    curl_multi_remove_handle(osb_loop_multi(loop), transfer->easy);
    changed(transfer);
}

void osb_transfer_fail(struct osb_transfer *transfer, const char *code, const char *text)
{
    if (transfer->done)
        return;
    transfer->failure = code;
    snprintf(transfer->failure_text, sizeof transfer->failure_text, "%s", text);
    stop(transfer);
}

static struct osb_transfer *transfer_of(CURL *easy)
{
    char *user = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &user);
    return (struct osb_transfer *)(void *)user;
}

/* libcurl (before version 8) does not end a transfer whose connection ended while there may be more to send: it just
   watches nothing any more. So an upload without end is ended then; on_due says so, as this is inside libcurl. */
void osb_transfer_unwatched(CURL *easy)
{
    struct osb_transfer *transfer = transfer_of(easy);
    if (!transfer || !transfer->is_upgrade || transfer->done || transfer->paused || !transfer->out_starved)
        return;
    transfer->out_ended = true;
    osb_loop_arm(&transfer->source, 0);
}

void osb_transfer_finished(CURL *easy, CURLcode code)
{
    struct osb_transfer *transfer = transfer_of(easy);
    transfer->result = code;
    if (transfer->draining)
        osb_transfer_free(transfer);
    else
        stop(transfer);
}

void osb_transfer_free(struct osb_transfer *transfer)
{
    if (!transfer)
        return;
    struct osb_loop *loop = transfer->source.loop;
    if (loop && osb_loop_is_foreign(loop))
        return;
    if (loop) {
        if (!transfer->done)
            curl_multi_remove_handle(osb_loop_multi(loop), transfer->easy);
        if (transfer->draining)
            osb_loop_count_drains(loop, -1);
        osb_loop_remove(&transfer->source);
    }
    curl_easy_cleanup(transfer->easy);
    curl_mime_free(transfer->mime);
    curl_slist_free_all(transfer->headers);
    free(transfer->upload_sources);
    if (transfer->file_fd >= 0)
        close(transfer->file_fd);
    osb_buf_free(&transfer->in);
    osb_buf_free(&transfer->out);
    osb_buf_free(&transfer->scratch);
    free(transfer);
}

void osb_transfer_drain(struct osb_transfer *transfer)
{
    struct osb_loop *loop = transfer->source.loop;
    bool worth = loop && !transfer->done && !osb_loop_is_foreign(loop) && transfer->headers_seen &&
                 osb_loop_count_drains(loop, 0) < MAX_DRAINS;
    transfer->deadline = osb_core_now() + DRAIN_SECONDS;
    if (!worth || !osb_loop_arm(&transfer->source, transfer->deadline)) {
        osb_transfer_free(transfer);
        return;
    }
    transfer->draining = true;
    transfer->source.awaited = false;
    osb_loop_count_drains(loop, 1);
    osb_buf_free(&transfer->in);
    osb_transfer_resume(transfer);
}

/* ---- reading and pushing ---- */

bool osb_transfer_is_ready(struct osb_transfer *transfer)
{
    if (transfer->done || transfer->headers_new || transfer->progressed)
        return true;
    if (transfer->sink == OSB_SINK_QUEUE && transfer->in.len > 0 && !transfer->starved)
        return true;
    if (!transfer->source.awaited) {
        transfer->source.awaited = true;
        transfer->activity = osb_core_now();
        arm(transfer);
    }
    return false;
}

bool osb_transfer_is_writable(struct osb_transfer *transfer)
{
    if (transfer->done || transfer->status >= 300 || transfer->out_index >= transfer->out_count)
        return true;
    if (!transfer->out_ended && transfer->out.len < OSB_QUEUE_LIMIT / 2)
        return true;
    transfer->source.awaited = true;
    return false;
}

void osb_transfer_resume(struct osb_transfer *transfer)
{
    bool may_grow = transfer->starved && transfer->in.len <= transfer->frame.limit;
    if (!transfer->paused || transfer->done || (transfer->in.len > OSB_QUEUE_LIMIT / 2 && !may_grow))
        return;
    transfer->paused = false;
    transfer->activity = osb_core_now();
    curl_easy_pause(transfer->easy, transfer->out_starved ? CURLPAUSE_SEND : CURLPAUSE_CONT);
}

void osb_transfer_pushed(struct osb_transfer *transfer)
{
    if (!transfer->out_starved || transfer->done)
        return;
    transfer->out_starved = false;
    curl_easy_pause(transfer->easy, transfer->paused ? CURLPAUSE_RECV : CURLPAUSE_CONT);
}
