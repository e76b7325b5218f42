#include "buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool osb_buf_reserve(struct osb_buf *buf, size_t extra)
{
    if (extra > SIZE_MAX / 4 - buf->len)
        return false;
    if (buf->head + buf->len + extra <= buf->cap)
        return true;
    if (buf->head > 0) {
        if (buf->len > 0)
            memmove(buf->base, buf->base + buf->head, buf->len);
        buf->head = 0;
        /* compacting pays only when it leaves room to spare; else grow as well, so that appends stay linear */
        if (buf->len + extra <= buf->cap / 2)
            return true;
    }
    size_t cap = buf->cap ? buf->cap : 256;
    while (cap < buf->len + extra)
        cap *= 2;
    char *base = realloc(buf->base, cap);
    if (!base)
        return false;
    buf->base = base;
    buf->cap = cap;
    return true;
}

bool osb_buf_append(struct osb_buf *buf, const void *bytes, size_t len)
{
    if (len == 0)
        return true;
    if (!osb_buf_reserve(buf, len))
        return false;
    memcpy(buf->base + buf->head + buf->len, bytes, len);
    buf->len += len;
    return true;
}

bool osb_buf_append_str(struct osb_buf *buf, const char *str)
{
    return osb_buf_append(buf, str, strlen(str));
}

bool osb_buf_append_byte(struct osb_buf *buf, char byte)
{
    return osb_buf_append(buf, &byte, 1);
}

bool osb_buf_printf(struct osb_buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int need = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (need < 0 || !osb_buf_reserve(buf, (size_t)need + 1))
        return false;
    va_start(args, format);
    vsnprintf(buf->base + buf->head + buf->len, (size_t)need + 1, format, args);
    va_end(args);
    buf->len += (size_t)need;
    return true;
}

void osb_buf_consume(struct osb_buf *buf, size_t count)
{
    if (count >= buf->len) {
        osb_buf_clear(buf);
        return;
    }
    buf->head += count;
    buf->len -= count;
}

void osb_buf_clear(struct osb_buf *buf)
{
    buf->head = 0;
    buf->len = 0;
}

void osb_buf_free(struct osb_buf *buf)
{
    free(buf->base);
    *buf = (struct osb_buf){0};
}
