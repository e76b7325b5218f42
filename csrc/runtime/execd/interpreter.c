#include "interpreter.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "environment.h"
#include "runtime/shared/text.h"

#define READ_SIZE ((size_t)64 << 10)
#define LINE_MAX_SIZE ((size_t)12 << 20) /* bytes of a message; what it becomes stays below what clients take */

enum { STDOUT, STDERR, MESSAGES, SOURCES };

struct osb_interpreter {
    struct osb_execd *execd;
    const struct osb_driver *driver;
    struct osb_interpreter_events events;
    pid_t pid;
    struct source {
        struct osb_interpreter *interpreter;
        struct osb_watch *watch;
        int fd; /* reading end of a pipe; -1 when it is over */
    } sources[SOURCES];
    int requests; /* writing end */
    struct osb_watch *request_watch;
    int interrupts; /* file that counts them; -1: it gets SIGINT */
    struct osb_buf to_send;
    struct osb_buf messages;               /* not looked at yet */
    size_t searched;                       /* bytes of them in which there is no newline */
    unsigned int number;                   /* of the request */
    bool ready, waiting, running, started; /* waiting: a request is kept until the driver is ready */
    bool interrupt_due;                    /* as soon as the code has started */
    bool too_long;                         /* the message under way is dropped */
    bool paused, exited, busy;
    int status;
};

static char read_buffer[READ_SIZE];

static void interpreter_free(struct osb_interpreter *interpreter)
{
    osb_watch_remove(interpreter->request_watch);
    for (size_t i = 0; i < SOURCES; i++) {
        osb_watch_remove(interpreter->sources[i].watch);
        if (interpreter->sources[i].fd >= 0)
            close(interpreter->sources[i].fd);
    }
    if (interpreter->requests >= 0)
        close(interpreter->requests);
    if (interpreter->interrupts >= 0)
        close(interpreter->interrupts);
    osb_buf_free(&interpreter->to_send);
    osb_buf_free(&interpreter->messages);
    free(interpreter);
}

/* ---- sending ---- */

static void requests_ready(void *context, uint32_t events);

/* Writes what the pipe takes; the rest when it takes more. */
static void send_requests(struct osb_interpreter *interpreter)
{
    struct osb_buf *left = &interpreter->to_send;
    ssize_t written;
    while (left->len > 0 && (written = write(interpreter->requests, osb_buf_data(left), left->len)) > 0)
        osb_buf_consume(left, (size_t)written);
    if (left->len > 0 && errno == EAGAIN && !interpreter->request_watch)
        interpreter->request_watch =
            osb_evloop_watch(interpreter->execd->loop, interpreter->requests, EPOLLOUT, requests_ready, interpreter);
    if (left->len > 0 && interpreter->request_watch && errno == EAGAIN)
        return;
    /* all is sent, or it can't be: then the interpreter's end is near */
    osb_buf_free(left);
    osb_watch_remove(interpreter->request_watch);
    interpreter->request_watch = NULL;
}

static void requests_ready(void *context, uint32_t events)
{
    (void)events;
    send_requests(context);
}

static void interrupt_now(struct osb_interpreter *interpreter)
{
    interpreter->interrupt_due = false;
    if (interpreter->interrupts < 0) {
        kill(-interpreter->pid, SIGINT);
    } else {
        if (write(interpreter->interrupts, "!", 1) < 0)
            kill(-interpreter->pid, SIGKILL);
        osb_child_interrupt_below(interpreter->pid);
    }
    if (!osb_driver_after_interrupt(interpreter->driver, interpreter->number, &interpreter->to_send))
        kill(-interpreter->pid, SIGKILL);
    send_requests(interpreter);
}

void osb_interpreter_interrupt(struct osb_interpreter *interpreter)
{
    if (interpreter->started)
        interrupt_now(interpreter);
    else
        interpreter->interrupt_due = interpreter->running || interpreter->waiting;
}

/* ---- receiving ---- */

/* Hands out what is in the pipes of its output now. */
static void drain_outputs(struct osb_interpreter *interpreter)
{
    for (int channel = STDOUT; channel <= STDERR; channel++) {
        int held = 0;
        ssize_t got = 1;
        if (ioctl(interpreter->sources[channel].fd, FIONREAD, &held) < 0)
            continue;
        while (held > 0 && got > 0) {
            size_t want = (size_t)held < READ_SIZE ? (size_t)held : READ_SIZE;
            got = read(interpreter->sources[channel].fd, read_buffer, want);
            if (got > 0 && interpreter->running)
                interpreter->events.output(interpreter->events.context, channel, read_buffer, (size_t)got);
            held -= (int)got;
        }
    }
}

static void start_waiting(struct osb_interpreter *interpreter)
{
    interpreter->waiting = false;
    interpreter->running = true;
    send_requests(interpreter);
}

static void take_message(struct osb_interpreter *interpreter, const char *line, size_t len)
{
    struct osb_buf clean = {0};
    if (!osb_utf8_valid(line, len)) {
        if (!osb_utf8_clean(&clean, line, len))
            return;
        line = osb_buf_data(&clean);
        len = clean.len;
    }
    json_t *message = json_loadb(line, len, JSON_ALLOW_NUL, NULL);
    osb_buf_free(&clean);
    drain_outputs(interpreter);
    const json_t *request = json_object_get(message, "request");
    bool stale = request && json_integer_value(request) != (json_int_t)interpreter->number;
    if (json_object_get(message, "ready") && !interpreter->ready) {
        interpreter->ready = true;
        if (interpreter->waiting)
            start_waiting(interpreter);
    } else if (json_is_object(message) && interpreter->running && !stale) {
        if (json_object_get(message, "started")) {
            interpreter->started = true;
            if (interpreter->interrupt_due)
                interrupt_now(interpreter);
        } else {
            if (json_object_get(message, "done"))
                interpreter->running = interpreter->started = false;
            interpreter->events.message(interpreter->events.context, message);
        }
    }
    json_decref(message);
}

/* In the place of a message that was not kept. */
static const char too_long[] = "{\"too_long\":true}";

/* Takes the next message out of what came; false when none is complete. */
static bool next_message(struct osb_interpreter *interpreter)
{
    struct osb_buf *held = &interpreter->messages;
    const char *begin = osb_buf_data(held);
    const char *end = memchr(begin + interpreter->searched, '\n', held->len - interpreter->searched);
    if (!end) {
        interpreter->searched = held->len;
        if (held->len > LINE_MAX_SIZE) {
            interpreter->too_long = true;
            interpreter->searched = 0;
            osb_buf_free(held);
        }
        return false;
    }
    size_t len = (size_t)(end - begin);
    if (interpreter->too_long)
        take_message(interpreter, too_long, sizeof too_long - 1);
    else
        take_message(interpreter, begin, len);
    interpreter->too_long = false;
    interpreter->searched = 0;
    osb_buf_consume(held, len + 1);
    return true;
}

/* Reads a piece; false when there is nothing. */
static bool read_source(struct source *source)
{
    struct osb_interpreter *interpreter = source->interpreter;
    ssize_t got = source->fd >= 0 ? read(source->fd, read_buffer, READ_SIZE) : 0;
    int channel = (int)(source - interpreter->sources);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        osb_watch_remove(source->watch);
        source->watch = NULL;
        if (source->fd >= 0)
            close(source->fd);
        source->fd = -1;
        return false;
    }
    if (channel != MESSAGES) {
        if (interpreter->running)
            interpreter->events.output(interpreter->events.context, channel, read_buffer, (size_t)got);
    } else if (!osb_buf_append(&interpreter->messages, read_buffer, (size_t)got)) {
        kill(-interpreter->pid, SIGKILL);
    }
    return true;
}

static void source_ready(void *context, uint32_t events);

/* Watches its pipes unless it is paused, when their ends would wake us again and again. */
static void watch_sources(struct osb_interpreter *interpreter)
{
    for (size_t i = 0; i < SOURCES; i++) {
        struct source *source = &interpreter->sources[i];
        if (interpreter->paused || interpreter->exited || source->fd < 0) {
            osb_watch_remove(source->watch);
            source->watch = NULL;
        } else if (!source->watch) {
            source->watch = osb_evloop_watch(interpreter->execd->loop, source->fd, EPOLLIN, source_ready, source);
            if (!source->watch)
                kill(-interpreter->pid, SIGKILL);
        }
    }
}

/* Handles what has come. Frees the interpreter when it has ended and all is told. */
static void interpreter_turn(struct osb_interpreter *interpreter)
{
    bool over = false;
    if (interpreter->busy)
        return;
    interpreter->busy = true;
    while (!interpreter->paused && !over) {
        if (next_message(interpreter))
            continue;
        if (!interpreter->exited)
            break;
        if (!read_source(&interpreter->sources[MESSAGES])) {
            drain_outputs(interpreter);
            over = true;
        }
    }
    interpreter->busy = false;
    if (over) {
        const struct osb_interpreter_events events = interpreter->events;
        int status = interpreter->status;
        interpreter_free(interpreter);
        events.ended(events.context, status);
    } else {
        watch_sources(interpreter);
    }
}

static void source_ready(void *context, uint32_t events)
{
    struct source *source = context;
    (void)events;
    read_source(source);
    interpreter_turn(source->interpreter);
}

static void process_ended(void *context, int status)
{
    struct osb_interpreter *interpreter = context;
    interpreter->exited = true;
    interpreter->status = status;
    watch_sources(interpreter);
    interpreter_turn(interpreter);
}

void osb_interpreter_pause(struct osb_interpreter *interpreter, bool paused)
{
    if (interpreter->paused == paused)
        return;
    interpreter->paused = paused;
    if (paused)
        watch_sources(interpreter);
    else
        interpreter_turn(interpreter);
}

bool osb_interpreter_run(struct osb_interpreter *interpreter, const char *code, size_t len)
{
    if (!osb_driver_request(interpreter->driver, ++interpreter->number, code, len, &interpreter->to_send))
        return false;
    /* what was written since the last code ended is nobody's */
    drain_outputs(interpreter);
    interpreter->waiting = true;
    if (interpreter->ready)
        start_waiting(interpreter);
    return true;
}

/* ---- start and end ---- */

/* A file that holds the driver, or is empty; -1 with errno. */
static int unnamed_file(const unsigned char *text, size_t size)
{
    int file = memfd_create("driver", MFD_CLOEXEC);
    if (file >= 0 && size > 0 && (pwrite(file, text, size, 0) != (ssize_t)size)) {
        close(file);
        return -1;
    }
    return file;
}

/* Starts the program with pipes and files; false with a sentence in `error`. */
static bool start_process(struct osb_interpreter *interpreter, const char *program, const char *name, const char *cwd,
                          char error[OSB_CHILD_ERROR_SIZE])
{
    const struct osb_driver *driver = interpreter->driver;
    enum { MAX_ARGUMENTS = 8, PIPES = SOURCES + 1, REQUESTS = SOURCES };
    const char *argv[MAX_ARGUMENTS + 2] = {name};
    for (size_t i = 0; i < MAX_ARGUMENTS && driver->arguments[i]; i++)
        argv[i + 1] = driver->arguments[i];
    int pipes[PIPES][2] = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    char **environment = osb_environment_merge(NULL);
    int text = unnamed_file(driver->text, *driver->size);
    interpreter->interrupts = driver->counts_interrupts ? unnamed_file(NULL, 0) : -1;
    bool room = environment && text >= 0 && (!driver->counts_interrupts || interpreter->interrupts >= 0);
    for (size_t i = 0; i < PIPES && room; i++)
        room = pipe2(pipes[i], O_CLOEXEC) == 0;
    if (room) {
        const int extra[] = {pipes[REQUESTS][0], pipes[MESSAGES][1], text, interpreter->interrupts};
        const struct osb_child_spec spec = {.program = program,
                                            .argv = argv,
                                            .environment = environment,
                                            .cwd = cwd,
                                            .input = driver->shell ? pipes[REQUESTS][0] : 0,
                                            .output = pipes[STDOUT][1],
                                            .error = pipes[STDERR][1],
                                            .extra = extra,
                                            .extra_count = driver->counts_interrupts ? 4 : 3};
        interpreter->pid = osb_child_start(interpreter->execd->children, &spec, process_ended, interpreter, error);
    } else {
        snprintf(error, OSB_CHILD_ERROR_SIZE, "%s", strerror(errno));
    }
    for (size_t i = 0; i < SOURCES; i++) {
        interpreter->sources[i] = (struct source){.interpreter = interpreter, .fd = pipes[i][0]};
        if (pipes[i][0] >= 0)
            fcntl(pipes[i][0], F_SETFL, O_NONBLOCK);
        if (pipes[i][1] >= 0)
            close(pipes[i][1]);
    }
    interpreter->requests = pipes[REQUESTS][1];
    if (pipes[REQUESTS][1] >= 0)
        fcntl(pipes[REQUESTS][1], F_SETFL, O_NONBLOCK);
    if (pipes[REQUESTS][0] >= 0)
        close(pipes[REQUESTS][0]);
    if (text >= 0)
        close(text);
    osb_environment_release(environment);
    return interpreter->pid > 0;
}

struct osb_interpreter *osb_interpreter_start(struct osb_execd *execd, const struct osb_driver *driver, const char *cwd,
                                              const struct osb_interpreter_events *events,
                                              char error[OSB_CHILD_ERROR_SIZE])
{
    const char *name;
    char *program = osb_driver_program(driver, &name);
    struct osb_interpreter *interpreter = calloc(1, sizeof *interpreter);
    snprintf(error, OSB_CHILD_ERROR_SIZE, program ? "out of memory" : "it is not installed");
    if (interpreter) {
        interpreter->execd = execd;
        interpreter->driver = driver;
        interpreter->events = *events;
        if (program && start_process(interpreter, program, name, cwd, error)) {
            watch_sources(interpreter);
        } else {
            interpreter_free(interpreter);
            interpreter = NULL;
        }
    }
    free(program);
    return interpreter;
}

void osb_interpreter_kill(struct osb_interpreter *interpreter)
{
    kill(-interpreter->pid, SIGKILL);
    if (!interpreter->exited)
        osb_child_forget(interpreter->execd->children, interpreter->pid);
    interpreter_free(interpreter);
}
