#include "runtime/runtime/diary.h"

#include <string.h>
#include <time.h>

#include "runtime/shared/text.h"

/* Drops whole lines in front until it fits. */
static void shorten(struct osb_buf *text)
{
    if (text->len <= OSB_DIARY_SIZE)
        return;
    const size_t excess = text->len - OSB_DIARY_SIZE;
    const char *line = memchr(osb_buf_data(text) + excess, '\n', OSB_DIARY_SIZE);
    osb_buf_consume(text, line ? (size_t)(line + 1 - osb_buf_data(text)) : excess);
}

void osb_diary_event(struct osb_diary *diary, const char *text)
{
    struct timespec now;
    char stamp[OSB_TIME_SIZE];
    clock_gettime(CLOCK_REALTIME, &now);
    osb_time_format(&now, stamp);
    (void)osb_buf_printf(&diary->events, "%s %s\n", stamp, text);
    shorten(&diary->events);
}

void osb_diary_log(struct osb_diary *diary, const char *bytes, size_t len)
{
    (void)osb_utf8_clean(&diary->logs, bytes, len);
    shorten(&diary->logs);
}

struct osb_slice osb_diary_tail(const struct osb_buf *text, size_t lines)
{
    const char *begin = osb_buf_data(text);
    const char *end = begin + text->len;
    const char *next = end;
    for (; next > begin && lines > 0; lines--) {
        const char *line = memrchr(begin, '\n', (size_t)(next - 1 - begin));
        next = line ? line + 1 : begin;
    }
    return (struct osb_slice){.ptr = next, .len = (size_t)(end - next)};
}

void osb_diary_free(struct osb_diary *diary)
{
    osb_buf_free(&diary->events);
    osb_buf_free(&diary->logs);
}
