/* Decoding reads nothing outside the JSON, gives slices within the JSON or the scratch buffer, gives the same again
 * when repeated, and what it found survives being written as JSON and read again. No shorter piece of an object is
 * valid. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "core/event.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

static bool lies_in(struct osb_slice slice, const char *start, size_t len)
{
    uintptr_t at = (uintptr_t)slice.ptr, from = (uintptr_t)start;
    return at >= from && at + slice.len <= from + len;
}

static void check_slice(struct osb_slice slice, const char *json, size_t len, const struct osb_buf *scratch)
{
    check(slice.len == 0 || lies_in(slice, json, len) || lies_in(slice, osb_buf_data(scratch), scratch->len));
}

static bool slices_equal(struct osb_slice a, struct osb_slice b)
{
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static void check_equal(const struct osb_event *a, const struct osb_event *b)
{
    check(a->type == b->type && slices_equal(a->type_name, b->type_name));
    check(a->has_text == b->has_text && slices_equal(a->text, b->text));
    check(a->has_timestamp == b->has_timestamp && a->timestamp_ms == b->timestamp_ms);
    check(a->has_execution_time == b->has_execution_time && a->execution_time_ms == b->execution_time_ms);
    check(a->has_execution_count == b->has_execution_count && a->execution_count == b->execution_count);
}

static void write_string(struct osb_buf *out, const char *key, struct osb_slice value)
{
    check(osb_buf_printf(out, "%s\"%s\":\"", out->len > 1 ? "," : "", key));
    for (size_t i = 0; i < value.len; i++) {
        unsigned char byte = (unsigned char)value.ptr[i];
        if (byte < 0x20 || byte == '"' || byte == '\\')
            check(osb_buf_printf(out, "\\u%04x", byte));
        else
            check(osb_buf_append(out, value.ptr + i, 1));
    }
    check(osb_buf_append_byte(out, '"'));
}

static void write_integer(struct osb_buf *out, const char *key, int64_t value)
{
    if (value == INT64_MIN) /* only a fraction below -INT64_MAX rounds to it */
        check(osb_buf_printf(out, "%s\"%s\":-9223372036854775807.5", out->len > 1 ? "," : "", key));
    else
        check(osb_buf_printf(out, "%s\"%s\":%lld", out->len > 1 ? "," : "", key, (long long)value));
}

static void write_event(struct osb_buf *out, const struct osb_event *event)
{
    check(osb_buf_append_byte(out, '{'));
    if (event->type != OSB_EVENT_UNTYPED)
        write_string(out, "type", event->type_name);
    if (event->has_text)
        write_string(out, "text", event->text);
    if (event->has_timestamp)
        write_integer(out, "timestamp", event->timestamp_ms);
    if (event->has_execution_time)
        write_integer(out, "execution_time", event->execution_time_ms);
    if (event->has_execution_count)
        write_integer(out, "execution_count", event->execution_count);
    check(osb_buf_append_byte(out, '}'));
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    /* exactly as large as the input, so that the sanitizer sees any access beyond it */
    char *json = malloc(size ? size : 1);
    check(json != NULL);
    if (size > 0)
        memcpy(json, input, size);
    struct osb_buf scratch = {0}, again_scratch = {0}, written = {0};
    struct osb_event event, again;
    if (osb_event_decode(json, size, &scratch, &event) == 0) {
        check_slice(event.type_name, json, size, &scratch);
        check_slice(event.text, json, size, &scratch);
        check(osb_event_decode(json, size, &again_scratch, &again) == 0);
        check_equal(&event, &again);
        write_event(&written, &event);
        check(osb_event_decode(osb_buf_data(&written), written.len, &again_scratch, &again) == 0);
        check_equal(&event, &again);
        size_t end = size; /* behind the closing brace */
        while (end > 0 && json[end - 1] != '}')
            end--;
        check(end > 0);
        if (size < 512) {
            for (size_t len = 0; len < end; len++)
                check(osb_event_decode(json, len, &again_scratch, &again) == -1);
        }
        json[end - 1] = ']';
        check(osb_event_decode(json, size, &again_scratch, &again) == -1);
    }
    osb_buf_free(&scratch);
    osb_buf_free(&again_scratch);
    osb_buf_free(&written);
    free(json);
    return 0;
}
