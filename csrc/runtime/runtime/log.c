#include "runtime/runtime/log.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/shared/text.h"

static int log_fd = -1;

bool osb_log_open(const char *path)
{
    if (!path)
        return true;
    if (strcmp(path, "-") == 0)
        log_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3); /* the janitor lets go of its standard error */
    else
        log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    return log_fd >= 0;
}

void osb_log(const char *format, ...)
{
    if (log_fd < 0)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char stamp[OSB_TIME_SIZE];
    osb_time_format(&now, stamp);
    char message[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    json_t *line = json_pack("{s:s, s:I, s:o}", "time", stamp, "pid", (json_int_t)getpid(), "message",
                             osb_json_text(message, strlen(message)));
    char *text = json_dumps(line, JSON_COMPACT);
    if (text)
        dprintf(log_fd, "%s\n", text);
    free(text);
    json_decref(line);
}
