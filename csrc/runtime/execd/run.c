#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "event.h"

#define PING_INTERVAL 3000 /* ms */
#define READ_SIZE ((size_t)64 << 10)

/* The reading end of stdout or stderr. It outlives its run while background processes hold the other end. */
struct output {
    struct osb_evloop *loop;
    struct osb_run *run; /* NULL: what comes is dropped */
    struct osb_watch *watch;
    int fd;
    size_t left; /* bytes still to send after the process has ended */
    struct osb_lines lines;
    struct output *next, **link; /* all that are open */
};

struct osb_run {
    struct osb_execd *execd;
    struct osb_http_stream *stream; /* NULL once the client is gone */
    struct osb_buf dropped;         /* takes events when there is no stream */
    struct output *outputs[2];      /* NULL when closed or not used */
    pid_t group;
    bool session, exited, timed_out;
    int status;
    int64_t started; /* ms, monotonic */
    struct osb_timer timeout, ping;
    void (*ended)(void *context, int status, bool timed_out, int64_t elapsed, struct osb_buf *out);
    void *context;
    struct osb_run *next, **link;
};

static struct osb_run *all_runs;
static struct output *all_outputs;
static char read_buffer[READ_SIZE];

static void output_close(struct output *output)
{
    osb_watch_remove(output->watch);
    close(output->fd);
    osb_buf_free(&output->lines.partial);
    *output->link = output->next;
    if (output->next)
        output->next->link = output->link;
    free(output);
}

static void output_ready(void *context, uint32_t events);

/* Watches it unless it is already; false when memory is out. */
static bool output_watch(struct output *output)
{
    if (!output->watch)
        output->watch = osb_evloop_watch(output->loop, output->fd, EPOLLIN, output_ready, output);
    return output->watch != NULL;
}

static struct osb_buf *run_buffer(struct osb_run *run)
{
    return run->stream ? osb_http_stream_buffer(run->stream) : &run->dropped;
}

static void run_flush(struct osb_run *run)
{
    if (run->stream)
        osb_http_stream_flush(run->stream);
    osb_buf_clear(&run->dropped);
}

static bool run_full(const struct osb_run *run)
{
    return run->stream && osb_http_stream_is_full(run->stream);
}

/* Memory is out: the client must not take what it has for all. */
static void run_break_off(struct osb_run *run)
{
    if (run->stream)
        osb_http_stream_cut(run->stream);
    run->stream = NULL;
}

static void run_free(struct osb_run *run)
{
    osb_timer_stop(run->execd->loop, &run->timeout);
    osb_timer_stop(run->execd->loop, &run->ping);
    for (size_t i = 0; i < 2; i++) {
        struct output *output = run->outputs[i];
        if (!output)
            continue;
        output->run = NULL;
        if (!output_watch(output))
            output_close(output);
    }
    osb_buf_free(&run->dropped);
    *run->link = run->next;
    if (run->next)
        run->next->link = run->link;
    free(run);
}

static bool output_pending(const struct osb_run *run)
{
    for (size_t i = 0; i < 2; i++) {
        if (run->outputs[i] && run->outputs[i]->left > 0)
            return true;
    }
    return false;
}

/* Sends the last event when the process has ended and its output is sent. Frees the run then. */
static void run_finish(struct osb_run *run)
{
    if (!run->exited || output_pending(run))
        return;
    bool written = true;
    for (size_t i = 0; i < 2; i++) {
        struct output *output = run->outputs[i];
        if (output)
            written &= osb_lines_finish(&output->lines, run_buffer(run));
    }
    if (!written)
        run_break_off(run);
    if (run->ended)
        run->ended(run->context, run->status, run->timed_out, osb_evloop_now() - run->started, run_buffer(run));
    run_flush(run);
    if (run->stream)
        osb_http_stream_end(run->stream);
    run_free(run);
}

/* Reads a piece; ends the run when it was the last of it. */
static void output_ready(void *context, uint32_t events)
{
    struct output *output = context;
    struct osb_run *run = output->run;
    (void)events;
    if (run && run_full(run)) {
        /* not watched meanwhile: a hang-up cannot be masked */
        osb_watch_remove(output->watch);
        output->watch = NULL;
        return;
    }
    size_t want = run && run->exited && output->left < READ_SIZE ? output->left : READ_SIZE;
    ssize_t got = want > 0 ? read(output->fd, read_buffer, want) : 0;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0 && run) {
        if (!osb_lines_feed(&output->lines, read_buffer, (size_t)got, run_buffer(run)))
            run_break_off(run);
        run_flush(run);
        if (run->exited)
            output->left -= (size_t)got;
    }
    if (got <= 0) {
        /* the end: flush here what has no line end, as the order of both outputs is that of their coming */
        output->left = 0;
        if (run) {
            struct output **slot = run->outputs[0] == output ? &run->outputs[0] : &run->outputs[1];
            if (!osb_lines_finish(&output->lines, run_buffer(run)))
                run_break_off(run);
            run_flush(run);
            *slot = NULL;
        }
        output_close(output);
    }
    if (run)
        run_finish(run);
}

static void process_ended(void *context, int status)
{
    struct osb_run *run = context;
    run->exited = true;
    run->status = status;
    osb_timer_stop(run->execd->loop, &run->timeout);
    for (size_t i = 0; i < 2; i++) {
        struct output *output = run->outputs[i];
        int held = 0;
        if (output && ioctl(output->fd, FIONREAD, &held) == 0 && held > 0)
            output->left = (size_t)held;
    }
    run_finish(run);
}

static void timeout_fired(void *context)
{
    struct osb_run *run = context;
    run->timed_out = true;
    kill(-run->group, SIGKILL);
}

static void ping_fired(void *context)
{
    struct osb_run *run = context;
    if (!run->stream)
        return;
    if (!run_full(run)) {
        if (!osb_event_ping(run_buffer(run)))
            run_break_off(run);
        run_flush(run);
    }
    osb_timer_start(run->execd->loop, &run->ping, PING_INTERVAL, ping_fired, run);
}

/* ---- the client ---- */

static void resume_outputs(struct osb_run *run)
{
    for (size_t i = 0; i < 2; i++) {
        struct output *output = run->outputs[i];
        if (output && !output_watch(output)) {
            output->left = 0;
            run_break_off(run);
        }
    }
}

static void client_drained(void *context)
{
    resume_outputs(context);
}

static void client_gone(void *context)
{
    struct osb_run *run = context;
    osb_http_stream_end(run->stream);
    run->stream = NULL;
    osb_timer_stop(run->execd->loop, &run->ping);
    if (run->session && !run->exited)
        kill(-run->group, SIGKILL);
    resume_outputs(run);
}

void osb_run_add_headers(struct osb_http_request *request)
{
    osb_http_reply_header(request, "Content-Type", "text/event-stream");
    osb_http_reply_header(request, "Cache-Control", "no-cache");
    osb_http_reply_header(request, "X-Accel-Buffering", "no");
}

void osb_run_reply_events(struct osb_http_request *request, const struct osb_buf *events)
{
    struct osb_http_stream_events none = {0};
    osb_run_add_headers(request);
    struct osb_http_stream *stream = osb_http_reply_stream(request, 200, OSB_HTTP_CHUNKED, &none);
    if (!stream)
        return;
    if (!osb_buf_append(osb_http_stream_buffer(stream), osb_buf_data(events), events->len)) {
        osb_http_stream_cut(stream);
        return;
    }
    osb_http_stream_flush(stream);
    osb_http_stream_end(stream);
}

/* ---- starting ---- */

static struct output *output_open(struct osb_run *run, const char *type, int *write_end)
{
    int ends[2];
    struct output *output = calloc(1, sizeof *output);
    if (!output || pipe2(ends, O_CLOEXEC) < 0) {
        free(output);
        return NULL;
    }
    output->loop = run->execd->loop;
    output->run = run;
    output->fd = ends[0];
    output->lines.type = type;
    output->lines.session = run->session;
    output->next = all_outputs;
    output->link = &all_outputs;
    if (output->next)
        output->next->link = &output->next;
    all_outputs = output;
    *write_end = ends[1];
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    if (!output_watch(output)) {
        output_close(output);
        close(ends[1]);
        return NULL;
    }
    return output;
}

static void run_discard(struct osb_run *run)
{
    for (size_t i = 0; i < 2; i++) {
        if (run->outputs[i])
            output_close(run->outputs[i]);
        run->outputs[i] = NULL;
    }
    run_free(run);
}

struct osb_run *osb_run_start(struct osb_execd *execd, struct osb_http_request *request,
                              const struct osb_run_options *options, pid_t *pid, char error[OSB_CHILD_ERROR_SIZE])
{
    struct osb_run *run = calloc(1, sizeof *run);
    if (!run) {
        snprintf(error, OSB_CHILD_ERROR_SIZE, "out of memory");
        return NULL;
    }
    *run = (struct osb_run){.execd = execd,
                            .session = options->session,
                            .started = osb_evloop_now(),
                            .ended = options->ended,
                            .context = options->context,
                            .next = all_runs,
                            .link = &all_runs};
    if (run->next)
        run->next->link = &run->next;
    all_runs = run;
    int ends[2] = {-1, -1};
    run->outputs[0] = output_open(run, "stdout", &ends[0]);
    if (!options->session && run->outputs[0])
        run->outputs[1] = output_open(run, "stderr", &ends[1]);
    struct osb_child_spec spec = options->spec;
    spec.output = ends[0];
    spec.error = options->session ? ends[0] : ends[1];
    if (spec.error < 0) {
        snprintf(error, OSB_CHILD_ERROR_SIZE, "too many open files");
        *pid = -1;
    } else {
        *pid = osb_child_start(execd->children, &spec, process_ended, run, error);
    }
    for (size_t i = 0; i < 2; i++) {
        if (ends[i] >= 0)
            close(ends[i]);
    }
    if (*pid < 0) {
        run_discard(run);
        return NULL;
    }
    run->group = *pid;
    osb_run_add_headers(request);
    const struct osb_http_stream_events events = {.drain = client_drained, .gone = client_gone, .context = run};
    run->stream = osb_http_reply_stream(request, 200, OSB_HTTP_CHUNKED, &events);
    if (!osb_event_text(run_buffer(run), "init", options->id, strlen(options->id), osb_event_time()) ||
        !osb_event_ping(run_buffer(run)) || !osb_timer_start(execd->loop, &run->ping, PING_INTERVAL, ping_fired, run))
        run_break_off(run);
    run_flush(run);
    if (options->timeout > 0 && !osb_timer_start(execd->loop, &run->timeout, options->timeout, timeout_fired, run))
        timeout_fired(run);
    return run;
}

void osb_run_stop_all(void)
{
    while (all_outputs) {
        struct osb_run *run = all_outputs->run;
        if (run)
            run->outputs[run->outputs[0] == all_outputs ? 0 : 1] = NULL;
        output_close(all_outputs);
    }
    while (all_runs) {
        run_break_off(all_runs);
        run_free(all_runs);
    }
}
