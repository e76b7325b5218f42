#include "runtime/runtime/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime/shared/text.h"

static int log_fd = -1;

void osb_log_open(void)
{
    const char *path = getenv("OPENSANDBOX_RUNTIME_LOG");
    if (path && *path)
        log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
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
    dprintf(log_fd, "%s [%ld] %s\n", stamp, (long)getpid(), message);
}
