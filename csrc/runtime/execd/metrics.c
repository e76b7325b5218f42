/* CPU and memory of the machine: GET /metrics and /metrics/watch. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event.h"
#include "execd.h"

#define SAMPLE_TIME 200 /* ms that the CPU is measured for a single answer */
#define WATCH_TIME 2000 /* ms between two answers of a watch */

struct cpu_sample {
    unsigned long long total, busy;
};

/* A request that waits for its sample (no stream), or a watch. */
struct osb_metrics_watch {
    struct osb_execd *execd;
    struct osb_http_request *request;
    struct osb_http_stream *stream;
    struct cpu_sample before;
    struct osb_timer timer;
    struct osb_metrics_watch *next, **link;
};

static bool read_cpu(struct cpu_sample *sample)
{
    unsigned long long part[8] = {0}; /* user nice system idle iowait irq softirq steal */
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return false;
    int count = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &part[0], &part[1], &part[2], &part[3],
                       &part[4], &part[5], &part[6], &part[7]);
    fclose(file);
    sample->total = 0;
    for (size_t i = 0; i < 8; i++)
        sample->total += part[i];
    sample->busy = sample->total - part[3] - part[4];
    return count >= 4;
}

/* Total and used memory in MiB. */
static bool read_memory(double *total, double *used)
{
    unsigned long long all = 0, available = 0, value;
    char name[64];
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file)
        return false;
    while (fscanf(file, "%63s %llu%*[^\n]", name, &value) == 2) {
        if (strcmp(name, "MemTotal:") == 0)
            all = value;
        else if (strcmp(name, "MemAvailable:") == 0)
            available = value;
    }
    fclose(file);
    *total = (double)all / 1024;
    *used = (double)(all > available ? all - available : 0) / 1024;
    return all > 0;
}

static int cpu_count(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/* The metrics since `before`, which is set to now; NULL when they can't be read. */
static json_t *measure(struct cpu_sample *before)
{
    struct cpu_sample now;
    double total, used, percent = 0;
    if (!read_cpu(&now) || !read_memory(&total, &used))
        return NULL;
    if (now.total > before->total && now.busy >= before->busy)
        percent = 100.0 * (double)(now.busy - before->busy) / (double)(now.total - before->total);
    *before = now;
    return json_pack("{s:i, s:f, s:f, s:f, s:I}", "cpu_count", cpu_count(), "cpu_used_pct",
                     percent > 100 ? 100.0 : percent, "mem_total_mib", total, "mem_used_mib", used, "timestamp",
                     (json_int_t)osb_event_time());
}

static void watch_free(struct osb_metrics_watch *watch)
{
    osb_timer_stop(watch->execd->loop, &watch->timer);
    *watch->link = watch->next;
    if (watch->next)
        watch->next->link = watch->link;
    free(watch);
}

static struct osb_metrics_watch *watch_new(struct osb_execd *execd, struct osb_http_request *request)
{
    struct osb_metrics_watch *watch = calloc(1, sizeof *watch);
    if (!watch || !read_cpu(&watch->before)) {
        free(watch);
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR,
                             "error reading runtime metrics. /proc/stat cannot be read");
        return NULL;
    }
    watch->execd = execd;
    watch->request = request;
    watch->next = execd->metrics_watches;
    watch->link = &execd->metrics_watches;
    if (watch->next)
        watch->next->link = &watch->next;
    execd->metrics_watches = watch;
    return watch;
}

/* ---- GET /metrics ---- */

static void sampled(void *context)
{
    struct osb_metrics_watch *watch = context;
    json_t *metrics = measure(&watch->before);
    if (metrics)
        osb_http_reply_json(watch->request, 200, metrics);
    else
        osb_http_reply_error(watch->request, 500, OSB_RUNTIME_ERROR,
                             "error reading runtime metrics. /proc cannot be read");
    watch_free(watch);
}

void osb_metrics_get(struct osb_http_request *request, void *context)
{
    struct osb_metrics_watch *watch = watch_new(context, request);
    if (watch && !osb_timer_start(watch->execd->loop, &watch->timer, SAMPLE_TIME, sampled, watch))
        sampled(watch);
}

/* ---- GET /metrics/watch ---- */

static void watch_gone(void *context)
{
    struct osb_metrics_watch *watch = context;
    osb_http_stream_end(watch->stream);
    watch_free(watch);
}

static void watch_tick(void *context)
{
    struct osb_metrics_watch *watch = context;
    json_t *metrics = measure(&watch->before);
    char *text = metrics ? json_dumps(metrics, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(metrics);
    /* a client that does not read misses some */
    if (!osb_http_stream_is_full(watch->stream)) {
        osb_buf_printf(osb_http_stream_buffer(watch->stream), "%s\n",
                       text ? text : "{\"error\":\"/proc cannot be read\"}");
        osb_http_stream_flush(watch->stream);
    }
    free(text);
    if (!osb_timer_start(watch->execd->loop, &watch->timer, WATCH_TIME, watch_tick, watch)) {
        osb_http_stream_cut(watch->stream);
        watch_free(watch);
    }
}

void osb_metrics_follow(struct osb_http_request *request, void *context)
{
    struct osb_metrics_watch *watch = watch_new(context, request);
    if (!watch)
        return;
    const struct osb_http_stream_events events = {.gone = watch_gone, .context = watch};
    osb_http_reply_header(request, "Content-Type", "text/event-stream");
    osb_http_reply_header(request, "Cache-Control", "no-cache");
    osb_http_reply_header(request, "X-Accel-Buffering", "no");
    watch->stream = osb_http_reply_stream(request, 200, OSB_HTTP_CHUNKED, &events);
    if (watch->stream && osb_timer_start(watch->execd->loop, &watch->timer, WATCH_TIME, watch_tick, watch))
        return;
    if (watch->stream)
        osb_http_stream_cut(watch->stream);
    watch_free(watch);
}

void osb_metrics_stop_all(struct osb_execd *execd)
{
    while (execd->metrics_watches) {
        struct osb_metrics_watch *watch = execd->metrics_watches;
        if (watch->stream) /* NOLINT(clang-analyzer-unix.Malloc): watch_free takes it off the list */
            osb_http_stream_cut(watch->stream);
        watch_free(watch);
    }
}
