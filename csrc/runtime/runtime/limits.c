#include "runtime/runtime/limits.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LEAST_MEMORY ((int64_t)16 << 20) /* execd needs some */
#define LEAST_CPU 10
#define MOST 1e15

/* With AddressSanitizer execd reserves more than any limit of a process would allow. */
#ifdef __SANITIZE_ADDRESS__
static const bool per_process = false;
#else
static const bool per_process = true;
#endif

static const struct {
    const char *name;
    double factor;
} units[] = {{"", 1},
             {"m", 0.001},
             {"k", 1e3},
             {"M", 1e6},
             {"G", 1e9},
             {"T", 1e12},
             {"Ki", 1024},
             {"Mi", 1024.0 * 1024},
             {"Gi", 1024.0 * 1024 * 1024},
             {"Ti", 1024.0 * 1024 * 1024 * 1024}};

/* A quantity as Kubernetes writes it; -1 when it is none. */
static double read_quantity(const char *text)
{
    if (!isdigit((unsigned char)*text) || strpbrk(text, "xXeEpP"))
        return -1;
    char *end;
    double number = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].name) == 0 && number * units[i].factor < MOST)
            return number * units[i].factor;
    }
    return -1;
}

bool osb_limits_read(struct osb_limits *limits, const json_t *given, struct osb_rule_error *error)
{
    const char *cpu = json_string_value(json_object_get(given, "cpu"));
    const char *memory = json_string_value(json_object_get(given, "memory"));
    const double processors = cpu ? read_quantity(cpu) : 0;
    const double bytes = memory ? read_quantity(memory) : 0;
    *limits = (struct osb_limits){.cpu = (int64_t)(processors * 1000), .memory = (int64_t)bytes};
    if ((cpu && limits->cpu < LEAST_CPU) || (memory && limits->memory < LEAST_MEMORY)) {
        error->code = "SANDBOX::INVALID_PARAMETER";
        snprintf(error->message, sizeof error->message,
                 "resourceLimits: cpu is a number of processors such as \"500m\" or \"2\", memory a size such as "
                 "\"512Mi\", 16Mi at least.");
        return false;
    }
    return true;
}

bool osb_limits_apply(const struct osb_limits *limits, const int entries[OSB_CGROUPS])
{
    for (size_t i = 0; i < OSB_CGROUPS; i++) {
        if (entries[i] >= 0 && write(entries[i], "0", 1) != 1)
            return false;
    }
    /* what a process has for itself; a limit of its addresses would stop programs that reserve more than they use */
    const rlim_t most = (rlim_t)limits->memory;
    return entries[OSB_CGROUP_MEMORY] >= 0 || most == 0 || !per_process ||
           setrlimit(RLIMIT_DATA, &(struct rlimit){.rlim_cur = most, .rlim_max = most}) == 0;
}

json_t *osb_limits_report(const struct osb_cgroups *cgroups, const struct osb_limits *limits)
{
    const char *memory = *cgroups->base[OSB_CGROUP_MEMORY] ? "cgroup" : per_process ? "process" : "none";
    return json_pack("{s:s, s:s, s:s, s:s}", "cpu", limits->cpu && *cgroups->base[OSB_CGROUP_CPU] ? "cgroup" : "none",
                     "memory", limits->memory ? memory : "none", "pids",
                     *cgroups->base[OSB_CGROUP_PIDS] ? "cgroup" : "user", "disk", "none");
}
