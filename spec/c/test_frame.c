/* Every case runs with the stream cut nowhere, cut at every single byte, and cut once at each place; the frames must be
 * the same. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buf.h"
#include "core/frame.h"

enum { LIMIT = 1 << 20 };

/* Feeds `piece` bytes (0: none) at first, then `step` at a time; appends one line per frame to `out`:
 * kind|event|id|data, each frame ended by a record separator. */
static enum osb_frame_status feed(const char *bytes, size_t len, size_t piece, size_t step, size_t limit, bool eof,
                                  struct osb_buf *out)
{
    struct osb_frame frame;
    struct osb_frame_view view;
    struct osb_buf window = {0};
    enum osb_frame_status status = OSB_FRAME_MORE;
    osb_frame_init(&frame, limit);
    size_t given = 0;
    bool at_end = false;
    while (!at_end && status != OSB_FRAME_TOO_LONG) {
        size_t count = given == 0 && piece > 0 ? piece : step;
        count = count < len - given ? count : len - given;
        at_end = given + count == len;
        /* the window lies at the end of its own allocation, so that a sanitizer sees a read or write past it */
        assert_true(osb_buf_append(&window, bytes + given, count));
        given += count;
        size_t consumed;
        do {
            char *exact = malloc(window.len + 1);
            assert_non_null(exact);
            memcpy(exact + 1, osb_buf_data(&window), window.len);
            status = osb_frame_next(&frame, exact + 1, window.len, eof && at_end, &view, &consumed);
            assert_true(consumed <= window.len);
            if (status == OSB_FRAME_READY) {
                assert_true(osb_buf_printf(out, "%c%s|%.*s|%s%.*s|", view.is_bare ? 'B' : 'E',
                                           view.terminated ? "" : "~", (int)view.event.len, view.event.ptr,
                                           view.has_id ? "#" : "", (int)view.id.len, view.id.ptr));
                assert_true(osb_buf_append(out, view.data.ptr, view.data.len));
                assert_true(osb_buf_append_byte(out, '\x1e'));
            }
            memcpy(osb_buf_data(&window), exact + 1, window.len);
            osb_buf_consume(&window, consumed);
            free(exact);
        } while (status == OSB_FRAME_READY);
    }
    if (status == OSB_FRAME_MORE && eof)
        assert_int_equal(window.len, 0);
    osb_buf_free(&window);
    return status;
}

static void check_at(const char *bytes, size_t len, size_t piece, size_t step, const char *expected)
{
    struct osb_buf out = {0};
    assert_int_equal(feed(bytes, len, piece, step, LIMIT, true, &out), OSB_FRAME_MORE);
    assert_true(osb_buf_append_byte(&out, '\0'));
    assert_string_equal(osb_buf_data(&out), expected);
    osb_buf_free(&out);
}

static void check_bytes(const char *bytes, size_t len, const char *expected)
{
    check_at(bytes, len, 0, len ? len : 1, expected);
    check_at(bytes, len, 0, 1, expected);
    for (size_t cut = 1; cut < len; cut++)
        check_at(bytes, len, cut, len, expected);
}

static void check(const char *bytes, const char *expected)
{
    check_bytes(bytes, strlen(bytes), expected);
}

#define END "\x1e"

static void test_bare_lines(void **state)
{
    (void)state;
    check("", "");
    check("\n\n\r\n", "");
    check("{\"a\":1}\n\n{\"b\":2}\n\n", "B|||{\"a\":1}" END "B|||{\"b\":2}" END);
    check("{\"a\":1}\n{\"b\":2}\n", "B|||{\"a\":1}" END "B|||{\"b\":2}" END);
    check("{\"a\":1}\r\n\r\n{\"b\":2}\r\r[3]\r", "B|||{\"a\":1}" END "B|||{\"b\":2}" END "B|||[3]" END);
    check("  \t{\"a\":1} \n   \n [2]\n", "B|||{\"a\":1} " END "B|||[2]" END);
    check("{\"a\":1}\n\n{\"code\":\"X\"}", "B|||{\"a\":1}" END "B~|||{\"code\":\"X\"}" END);
    check("{\"u\":\"\xe2\x80\xa8\xc2\x85\xf0\x9f\x98\x80\"}\n",
          "B|||{\"u\":\"\xe2\x80\xa8\xc2\x85\xf0\x9f\x98\x80\"}" END);
}

static void test_events(void **state)
{
    (void)state;
    check("data: hello\n\n", "E|||hello" END);
    check("data:hello\n\n", "E|||hello" END);
    check("data:  two spaces\n\n", "E||| two spaces" END);
    check("data: a\ndata: b\ndata:\ndata\ndata: c\n\n", "E|||a\nb\n\n\nc" END);
    check("data\n\n", "E|||" END);
    check("data: {\"a\":1}\r\n\r\ndata: {\"b\":2}\r\n\r\n", "E|||{\"a\":1}" END "E|||{\"b\":2}" END);
    check("data: a\rdata: b\r\rdata: c\r\r", "E|||a\nb" END "E|||c" END);
    check("data: a\r\ndata: b\ndata: c\r\r\ndata: d\n\r", "E|||a\nb\nc" END "E|||d" END);
    check("event: message\nid: 14\ndata: {\"x\":[]}\n\n: heartbeat\n\nevent: log\ndata: y\n\n",
          "E|message|#14|{\"x\":[]}" END "E|log||y" END);
    check("data: first\nevent: late\ndata: second\nid: 9\ndata: third\n\n", "E|late|#9|first\nsecond\nthird" END);
    check(": comment\nretry: 10\ndatax: no\nevent:e\nunknown\n:\ndata: d\n: inside\nretry: 1\n\n", "E|e||d" END);
    check("data: unfinished", "E~|||unfinished" END);
    check("data: unfinished\n", "E~|||unfinished" END);
    check("data: a\ndata: b", "E~|||a\nb" END);
    check("event: nothing\n\nid: 3\n\ndata: x\n\nid\ndata: y\n\n", "E||#3|x" END "E||#|y" END);
    check("event: only", "");
    check("event: a\nid: 1\ndata: x\n\ndata: y\n\n", "E|a|#1|x" END "E|||y" END);
    check_bytes("id: 1\0\x32\ndata: x\n\n", 17, "E|||x" END);
}

static void test_mixed(void **state)
{
    (void)state;
    check("{\"a\":1}\n\ndata: b\n\n{\"c\":3}\n", "B|||{\"a\":1}" END "E|||b" END "B|||{\"c\":3}" END);
    check("data: a\n{\"code\":\"X\"}", "E|||a" END "B~|||{\"code\":\"X\"}" END);
    check("event: e\n{\"a\":1}\ndata: b\n\n", "B|||{\"a\":1}" END "E|||b" END);
    check("<html>\n<body>oops</body>\n", "");
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    check("\xef\xbb\xbf"
          "data: a\n\n",
          "E|||a" END);
    check("\xef\xbb\xbf"
          "{\"a\":1}\n",
          "B|||{\"a\":1}" END);
    check("\xef\xbb\xbf", "");
    check("\xef\xbb"
          "data: a\n\n",
          "");
    check("\xef\xbb", "");
    check("data: \xef\xbb\xbf"
          "a\n\n\xef\xbb\xbf"
          "data: b\n\n",
          "E|||\xef\xbb\xbf"
          "a" END);
}

/* A frame is handed out as soon as its last line's end is there, without waiting for what may follow a CR. */
static void test_no_waiting(void **state)
{
    (void)state;
    static const char *const streams[] = {"{}\n", "{}\r", "data: x\n\n", "data: x\r\r", "data: x\r\n\r"};
    for (size_t i = 0; i < sizeof(streams) / sizeof(*streams); i++) {
        struct osb_buf out = {0};
        assert_int_equal(feed(streams[i], strlen(streams[i]), 0, 1, LIMIT, false, &out), OSB_FRAME_MORE);
        assert_true(out.len > 0);
        osb_buf_free(&out);
    }
}

/* Comments, blank lines and finished fields need not be kept while the frame is awaited. */
static void test_consumes_what_it_needs_no_more(void **state)
{
    (void)state;
    struct osb_frame frame;
    struct osb_frame_view view;
    size_t consumed;
    char bytes[] = "\n: ping\n\nevent: e\nid: 7\ndata: x\npart";
    osb_frame_init(&frame, LIMIT);
    assert_int_equal(osb_frame_next(&frame, bytes, sizeof(bytes) - 1, false, &view, &consumed), OSB_FRAME_MORE);
    assert_string_equal(bytes + consumed, "data: x\npart");
}

static void check_limit(const char *bytes, size_t limit, enum osb_frame_status expected)
{
    size_t len = strlen(bytes);
    for (size_t cut = 0; cut < len; cut++) {
        struct osb_buf out = {0};
        assert_int_equal(feed(bytes, len, cut, len, limit, true, &out), expected);
        osb_buf_free(&out);
    }
    struct osb_buf out = {0};
    assert_int_equal(feed(bytes, len, 0, 1, limit, true, &out), expected);
    osb_buf_free(&out);
}

static void test_limit(void **state)
{
    (void)state;
    check_limit("{\"a\":1}\n\n{\"b\":2}\n\n", 7, OSB_FRAME_MORE);
    check_limit("{\"a\":1}\n\n{\"b\":2}\n\n", 6, OSB_FRAME_TOO_LONG);
    check_limit("{\"a\":1}", 6, OSB_FRAME_TOO_LONG);
    check_limit("data: a\n\ndata: b\n\n", 8, OSB_FRAME_MORE);
    check_limit("data: a\n\ndata: b\n\n", 7, OSB_FRAME_TOO_LONG);
    check_limit("data: a\r\ndata: b\r\n\r\n", 18, OSB_FRAME_MORE);
    check_limit("data: a\r\ndata: b\r\n\r\n", 17, OSB_FRAME_TOO_LONG);
    check_limit("data: 1\ndata: 2\ndata: 3\n\n", 20, OSB_FRAME_TOO_LONG);
    check_limit(": a long comment\n", 10, OSB_FRAME_TOO_LONG);
    check_limit(": a\n: b\n: c\n: d\n{}\n", 10, OSB_FRAME_MORE);
}

static void test_long_names(void **state)
{
    (void)state;
    char line[OSB_FRAME_FIELD_LIMIT + 40];
    snprintf(line, sizeof(line), "event: %0*d\ndata: x\n\n", OSB_FRAME_FIELD_LIMIT, 1);
    check_limit(line, LIMIT, OSB_FRAME_MORE);
    snprintf(line, sizeof(line), "event: %0*d\ndata: x\n\n", OSB_FRAME_FIELD_LIMIT + 1, 1);
    check_limit(line, LIMIT, OSB_FRAME_TOO_LONG);
    snprintf(line, sizeof(line), "id: %0*d\ndata: x\n\n", OSB_FRAME_FIELD_LIMIT + 1, 1);
    check_limit(line, LIMIT, OSB_FRAME_TOO_LONG);
}

/* What was searched once is not looked at again: line ends written over it go unnoticed. */
static void test_no_byte_is_searched_twice(void **state)
{
    (void)state;
    static const char line[] = "{\"a\": [1, 2, 3]}\n";
    for (size_t cut = 1; cut < sizeof(line) - 1; cut++) {
        struct osb_frame frame;
        struct osb_frame_view view;
        size_t consumed;
        char bytes[sizeof(line)];
        osb_frame_init(&frame, LIMIT);
        memcpy(bytes, line, sizeof(line));
        assert_int_equal(osb_frame_next(&frame, bytes, cut, false, &view, &consumed), OSB_FRAME_MORE);
        assert_int_equal(consumed, 0);
        memset(bytes + 1, cut % 2 ? '\n' : '\r', cut - 1);
        assert_int_equal(osb_frame_next(&frame, bytes, sizeof(line) - 1, false, &view, &consumed), OSB_FRAME_READY);
        assert_int_equal(view.data.len, sizeof(line) - 2);
        assert_int_equal(consumed, sizeof(line) - 1);
    }
}

/* Many small lines of one event, byte by byte. */
static void test_large_event_in_pieces(void **state)
{
    (void)state;
    enum { LINES = 20000 };
    struct osb_buf stream = {0}, expected = {0}, window = {0};
    for (int i = 0; i < LINES; i++) {
        assert_true(osb_buf_printf(&stream, "data: %d\r", i));
        assert_true(osb_buf_printf(&expected, "%s%d", i ? "\n" : "", i));
    }
    assert_true(osb_buf_append_byte(&stream, '\r'));
    struct osb_frame frame;
    struct osb_frame_view view;
    size_t consumed;
    osb_frame_init(&frame, LIMIT);
    for (size_t at = 0; at < stream.len; at++) {
        assert_true(osb_buf_append_byte(&window, osb_buf_data(&stream)[at]));
        enum osb_frame_status status =
            osb_frame_next(&frame, osb_buf_data(&window), window.len, false, &view, &consumed);
        assert_int_equal(status, at + 1 == stream.len ? OSB_FRAME_READY : OSB_FRAME_MORE);
        if (status == OSB_FRAME_READY) {
            assert_int_equal(view.data.len, expected.len);
            assert_memory_equal(view.data.ptr, osb_buf_data(&expected), expected.len);
        }
        osb_buf_consume(&window, consumed);
    }
    assert_int_equal(window.len, 0);
    osb_buf_free(&stream);
    osb_buf_free(&expected);
    osb_buf_free(&window);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bare_lines),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_no_waiting),
        cmocka_unit_test(test_consumes_what_it_needs_no_more),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_no_byte_is_searched_twice),
        cmocka_unit_test(test_large_event_in_pieces),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
