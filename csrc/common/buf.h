/* A growable byte buffer that can be consumed from the front. Zero-initialise it before first use. */
#ifndef OSB_BUF_H
#define OSB_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct osb_buf {
    char *base;  /* start of the allocation */
    size_t head; /* bytes already consumed in front */
    size_t len;  /* bytes held, from base + head */
    size_t cap;  /* size of the allocation */
};

struct osb_slice {
    const char *ptr;
    size_t len;
};

/* The bytes held; never NULL. Valid until the next call that changes the buffer. */
static inline char *osb_buf_data(const struct osb_buf *buf)
{
    static char empty[1];
    return buf->base ? buf->base + buf->head : empty;
}

/* Makes room for `extra` more bytes behind those held. False when memory is out; the buffer is then unchanged. */
bool osb_buf_reserve(struct osb_buf *buf, size_t extra);

/* Appends; false when memory is out (nothing is appended). */
bool osb_buf_append(struct osb_buf *buf, const void *bytes, size_t len);
bool osb_buf_append_str(struct osb_buf *buf, const char *str);
bool osb_buf_append_byte(struct osb_buf *buf, char byte);

/* printf into the buffer; false when memory is out. */
bool osb_buf_printf(struct osb_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Drops `count` bytes (at most those held) from the front. */
void osb_buf_consume(struct osb_buf *buf, size_t count);

/* Empties the buffer and keeps its memory. */
void osb_buf_clear(struct osb_buf *buf);

/* Frees the memory; the buffer can be used again. */
void osb_buf_free(struct osb_buf *buf);

#endif
