/* Lists of NUL-terminated arguments, as bubblewrap reads them from a descriptor. */
#ifndef OSB_ARGS_H
#define OSB_ARGS_H

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "common/buf.h"

/* Appends the strings up to NULL; false when memory is out. */
static inline __attribute__((sentinel)) bool osb_args_add(struct osb_buf *args, ...)
{
    va_list list;
    va_start(list, args);
    bool fits = true;
    for (const char *next = va_arg(list, const char *); next && fits; next = va_arg(list, const char *))
        fits = osb_buf_append(args, next, strlen(next) + 1);
    va_end(list);
    return fits;
}

#endif
