/* What happened to a sandbox, and what it said, for people who look into a problem. */
#ifndef OSB_DIARY_H
#define OSB_DIARY_H

#include "common/buf.h"

#define OSB_DIARY_SIZE ((size_t)64 << 10) /* bytes that are kept of each; the oldest lines go */

struct osb_diary {
    struct osb_buf events; /* a line each, with the time in front */
    struct osb_buf logs;   /* output of the entrypoint, and what execd says */
};

/* Adds an event. Memory that is out loses it. */
void osb_diary_event(struct osb_diary *diary, const char *text);

/* Adds output. */
void osb_diary_log(struct osb_diary *diary, const char *bytes, size_t len);

/* The last `lines` lines; valid until something is added. */
struct osb_slice osb_diary_tail(const struct osb_buf *text, size_t lines);

void osb_diary_free(struct osb_diary *diary);

#endif
