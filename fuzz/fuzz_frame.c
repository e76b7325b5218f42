/* Whatever the bytes and wherever they are cut, the frames are those of the uncut stream, the frame limit holds, and
 * all bytes are consumed in the end. Input: one byte for the limit, one for the seed of the cuts, then the stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "core/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

static void record_slice(struct osb_buf *out, struct osb_slice slice)
{
    check(osb_buf_append(out, &slice.len, sizeof(slice.len)) && osb_buf_append(out, slice.ptr, slice.len));
}

/* A cheap generator of numbers, for the lengths of the pieces. */
static size_t next_random(uint32_t *seed)
{
    *seed = *seed * UINT32_C(1664525) + UINT32_C(1013904223);
    return *seed >> 16;
}

/* Splits the stream, given in pieces of random length (or whole, where `seed` is 0), and writes all frames and the last
 * status to `out`. */
static void split(const char *bytes, size_t len, size_t limit, uint32_t seed, struct osb_buf *out)
{
    struct osb_frame frame;
    struct osb_frame_view view;
    struct osb_buf window = {0};
    enum osb_frame_status status = OSB_FRAME_MORE;
    size_t given = 0;
    bool at_end = false;
    osb_frame_init(&frame, limit);
    while (!at_end && status != OSB_FRAME_TOO_LONG) {
        size_t count = seed ? next_random(&seed) % 9 : len;
        count = count < len - given ? count : len - given;
        check(osb_buf_append(&window, bytes + given, count));
        given += count;
        at_end = given == len && (!seed || next_random(&seed) % 2);
        do {
            /* exactly as large as the window, so that the sanitizer sees any access beyond it */
            size_t held = window.len, consumed;
            char *exact = malloc(held ? held : 1);
            check(exact != NULL);
            memcpy(exact, osb_buf_data(&window), held);
            status = osb_frame_next(&frame, exact, held, at_end, &view, &consumed);
            check(consumed <= held && frame.limit == limit);
            if (status == OSB_FRAME_READY) {
                check(view.data.len <= limit);
                check(!view.is_bare || *view.data.ptr == '{' || *view.data.ptr == '[');
                char flags[] = {view.is_bare ? 'B' : 'E', view.has_id ? '#' : '-', view.terminated ? '.' : '~'};
                check(osb_buf_append(out, flags, sizeof(flags)));
                record_slice(out, view.event);
                record_slice(out, view.id);
                record_slice(out, view.data);
            }
            osb_buf_clear(&window);
            check(osb_buf_append(&window, exact + consumed, held - consumed));
            free(exact);
        } while (status == OSB_FRAME_READY);
    }
    check(osb_buf_append_byte(out, status == OSB_FRAME_MORE ? 'M' : 'L'));
    check(status != OSB_FRAME_MORE || window.len == 0);
    osb_buf_free(&window);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size < 2)
        return 0;
    const char *bytes = (const char *)input + 2;
    size_t len = size - 2, limit = input[0] == 0 ? (size_t)1 << 20 : input[0];
    struct osb_buf whole = {0}, pieces = {0};
    split(bytes, len, limit, 0, &whole);
    for (uint32_t seed = 1; seed <= 3; seed++) {
        osb_buf_clear(&pieces);
        split(bytes, len, limit, seed + input[1] * UINT32_C(7919), &pieces);
        check(whole.len == pieces.len && memcmp(osb_buf_data(&whole), osb_buf_data(&pieces), whole.len) == 0);
    }
    osb_buf_free(&whole);
    osb_buf_free(&pieces);
    return 0;
}
