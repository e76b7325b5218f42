#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buf.h"
#include "core/event.h"

static struct osb_buf scratch;

/* Decodes a copy that fills its allocation, so that a sanitizer sees a read beyond it. The copy stays until the test's
 * end, as slices point into it. */
static char *copies[64];
static size_t copy_count;

static int decode_bytes(const char *json, size_t len, struct osb_event *event)
{
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    copies[copy_count++ % 64] = copy;
    memcpy(copy + 1, json, len);
    return osb_event_decode(copy + 1, len, &scratch, event);
}

static int drop_copies(void **state)
{
    (void)state;
    assert_true(copy_count <= 64);
    while (copy_count > 0)
        free(copies[--copy_count]);
    osb_buf_free(&scratch);
    return 0;
}

static struct osb_event decode(const char *json)
{
    struct osb_event event;
    assert_int_equal(decode_bytes(json, strlen(json), &event), 0);
    return event;
}

static void assert_slice(struct osb_slice slice, const char *expected, size_t len)
{
    assert_int_equal(slice.len, len);
    assert_memory_equal(slice.ptr, expected, len);
}

#define assert_text(event, expected)                                                                                   \
    do {                                                                                                               \
        struct osb_event event_ = (event);                                                                             \
        assert_true(event_.has_text);                                                                                  \
        assert_slice(event_.text, expected, sizeof(expected) - 1);                                                     \
    } while (0)

static void test_wire_events(void **state)
{
    (void)state;
    struct osb_event event = decode("{\"type\":\"stdout\",\"text\":\"hi\",\"timestamp\":1781500000101}");
    assert_int_equal(event.type, OSB_EVENT_STDOUT);
    assert_slice(event.type_name, "stdout", 6);
    assert_text(event, "hi");
    assert_true(event.has_timestamp);
    assert_int_equal(event.timestamp_ms, INT64_C(1781500000101));
    assert_false(event.has_execution_time);
    assert_false(event.has_execution_count);

    event = decode("{\"type\":\"execution_complete\",\"execution_time\":103,\"timestamp\":1781500000104}");
    assert_int_equal(event.type, OSB_EVENT_COMPLETE);
    assert_false(event.has_text);
    assert_int_equal(event.text.len, 0);
    assert_true(event.has_execution_time);
    assert_int_equal(event.execution_time_ms, 103);

    event = decode("{\"type\":\"execution_count\",\"execution_count\":7,\"timestamp\":1}");
    assert_int_equal(event.type, OSB_EVENT_COUNT);
    assert_true(event.has_execution_count);
    assert_int_equal(event.execution_count, 7);

    event = decode("{\"type\":\"error\",\"timestamp\":5,\"error\":{\"ename\":\"CommandExecError\",\"evalue\":\"7\","
                   "\"traceback\":[\"exit status 7\"],\"type\":\"inner\",\"timestamp\":9}}");
    assert_int_equal(event.type, OSB_EVENT_ERROR);
    assert_int_equal(event.timestamp_ms, 5);

    event = decode(" { \"code\" : \"RUNTIME_ERROR\" , \"message\" : \"x\" } \r\n\t");
    assert_int_equal(event.type, OSB_EVENT_UNTYPED);
    assert_int_equal(event.type_name.len, 0);
    assert_int_equal(decode("{}").type, OSB_EVENT_UNTYPED);
    assert_int_equal(decode("{ }").type, OSB_EVENT_UNTYPED);
}

static void test_type_names(void **state)
{
    (void)state;
    static const char *const names[] = {[OSB_EVENT_INIT] = "init",
                                        [OSB_EVENT_STDOUT] = "stdout",
                                        [OSB_EVENT_STDERR] = "stderr",
                                        [OSB_EVENT_RESULT] = "result",
                                        [OSB_EVENT_ERROR] = "error",
                                        [OSB_EVENT_STATUS] = "status",
                                        [OSB_EVENT_COUNT] = "execution_count",
                                        [OSB_EVENT_COMPLETE] = "execution_complete",
                                        [OSB_EVENT_PING] = "ping"};
    for (int type = OSB_EVENT_INIT; type <= OSB_EVENT_PING; type++) {
        struct osb_buf json = {0};
        struct osb_event event;
        assert_true(osb_buf_printf(&json, "{\"type\":\"%s\"}", names[type]));
        assert_int_equal(decode_bytes(osb_buf_data(&json), json.len, &event), 0);
        assert_int_equal(event.type, type);
        assert_string_equal(osb_event_type_name(event.type), names[type]);
        osb_buf_free(&json);
    }
    struct osb_event other = decode("{\"type\":\"newer\"}");
    assert_int_equal(other.type, OSB_EVENT_OTHER);
    assert_slice(other.type_name, "newer", 5);
    assert_int_equal(decode("{\"type\":\"\"}").type, OSB_EVENT_OTHER);
    assert_int_equal(decode("{\"type\":\"stdou\"}").type, OSB_EVENT_OTHER);
    assert_int_equal(decode("{\"type\":\"stdoutx\"}").type, OSB_EVENT_OTHER);
    assert_int_equal(decode("{\"type\":null}").type, OSB_EVENT_UNTYPED);
    assert_string_equal(osb_event_type_name(OSB_EVENT_UNTYPED), "");
    assert_string_equal(osb_event_type_name(OSB_EVENT_OTHER), "");
}

static void test_escapes(void **state)
{
    (void)state;
    assert_text(decode("{\"text\":\"\"}"), "");
    assert_text(decode("{\"text\":\"\\n\"}"), "\n");
    assert_text(decode("{\"text\":\"a\\tb\\\"c\\\\d\\/e\\b\\f\\n\\r\"}"), "a\tb\"c\\d/e\b\f\n\r");
    assert_text(decode("{\"text\":\"\\u003chtml\\u003E \\u00e9 \\u20ac\"}"), "<html> \xc3\xa9 \xe2\x82\xac");
    assert_text(decode("{\"text\":\"\\ud83d\\ude00\"}"), "\xf0\x9f\x98\x80");
    assert_text(decode("{\"text\":\"x\\u0000y\"}"), "x\0y");
    assert_text(decode("{\"text\":\"raw \xc2\x85 \xff\"}"), "raw \xc2\x85 \xff");
    assert_text(decode("{\"text\":\"\xff\"}"), "\xff");
    assert_text(decode("{\"text\":\"\\ud83d\"}"), "\xef\xbf\xbd");
    assert_text(decode("{\"text\":\"\\ude00\\ude00\"}"), "\xef\xbf\xbd\xef\xbf\xbd");
    assert_text(decode("{\"text\":\"\\ude00\\ud83d\"}"), "\xef\xbf\xbd\xef\xbf\xbd");
    assert_text(decode("{\"text\":\"\\ud83d\\u0041\\ud83dz\\ud83d\\n\"}"), "\xef\xbf\xbd"
                                                                           "A\xef\xbf\xbdz\xef\xbf\xbd\n");
    assert_text(decode("{\"text\":\"\\ud83d\\ud83d\\ude00\"}"), "\xef\xbf\xbd\xf0\x9f\x98\x80");

    struct osb_event event = decode("{\"t\\u0079pe\":\"std\\u006fut\",\"te\\u0078t\":\"a\\nb\",\"\\u0074imestamp\":3}");
    assert_int_equal(event.type, OSB_EVENT_STDOUT);
    assert_slice(event.type_name, "stdout", 6);
    assert_text(event, "a\nb");
    assert_int_equal(event.timestamp_ms, 3);
}

/* Escapes at every offset from a word boundary. */
static void test_alignment(void **state)
{
    (void)state;
    for (size_t before = 0; before < 20; before++) {
        struct osb_buf json = {0}, expected = {0};
        struct osb_event event;
        assert_true(osb_buf_append_str(&json, "{\"text\":\""));
        for (size_t i = 0; i < before; i++) {
            assert_true(osb_buf_append_byte(&json, (char)('a' + i)));
            assert_true(osb_buf_append_byte(&expected, (char)('a' + i)));
        }
        assert_true(osb_buf_append_str(&json, "\\\\tail\"}"));
        assert_true(osb_buf_append_str(&expected, "\\tail"));
        assert_int_equal(decode_bytes(osb_buf_data(&json), json.len, &event), 0);
        assert_slice(event.text, osb_buf_data(&expected), expected.len);
        /* each shorter piece is not valid, and neither is one with a control character */
        char *bytes = osb_buf_data(&json);
        for (size_t len = 0; len < json.len; len++)
            assert_int_equal(osb_event_decode(bytes, len, &scratch, &event), -1);
        bytes[9 + before / 2] = '\x1f';
        assert_int_equal(osb_event_decode(bytes, json.len, &scratch, &event), -1);
        osb_buf_free(&json);
        osb_buf_free(&expected);
    }
}

static void check_number(const char *number, int64_t expected)
{
    struct osb_buf json = {0};
    struct osb_event event;
    assert_true(osb_buf_printf(&json, "{\"timestamp\":%s}", number));
    assert_int_equal(decode_bytes(osb_buf_data(&json), json.len, &event), 0);
    assert_true(event.has_timestamp);
    assert_int_equal(event.timestamp_ms, expected);
    osb_buf_free(&json);
}

static void test_numbers(void **state)
{
    (void)state;
    check_number("0", 0);
    check_number("-0", 0);
    check_number("-12", -12);
    check_number("9007199254740993", INT64_C(9007199254740993));
    check_number("9223372036854775807", INT64_MAX);
    check_number("1781500000101.999", INT64_C(1781500000101));
    check_number("1.0", 1);
    check_number("0.999", 0);
    check_number("-0.5", -1);
    check_number("-3.0", -3);
    check_number("1.7815e12", INT64_C(1781500000000));
    check_number("17815E+8", INT64_C(1781500000000));
    check_number("1781500000101999e-3", INT64_C(1781500000101));
    check_number("-1e-400", -1);
    check_number("0e999999999999", 0);
    check_number("5e-99999999999999999999", 0);

    assert_false(decode("{\"timestamp\":9223372036854775808}").has_timestamp);
    assert_false(decode("{\"timestamp\":1e19}").has_timestamp);
    assert_false(decode("{\"timestamp\":1e999999999999}").has_timestamp);
    assert_int_equal(decode("{\"timestamp\":1e19}").timestamp_ms, 0);
}

static void test_wrong_types_are_absent(void **state)
{
    (void)state;
    static const char *const values[] = {"null", "true", "false", "[1,2]", "{\"a\":{}}", "[]", "{}"};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        struct osb_buf json = {0};
        struct osb_event event;
        assert_true(osb_buf_printf(&json,
                                   "{\"type\":%s,\"text\":%s,\"timestamp\":%s,\"execution_time\":%s,"
                                   "\"execution_count\":%s,\"x\":1}",
                                   values[i], values[i], values[i], values[i], values[i]));
        assert_int_equal(decode_bytes(osb_buf_data(&json), json.len, &event), 0);
        assert_int_equal(event.type, OSB_EVENT_UNTYPED);
        assert_false(event.has_text || event.has_timestamp || event.has_execution_time || event.has_execution_count);
        osb_buf_free(&json);
    }
    assert_false(decode("{\"text\":5}").has_text);
    assert_false(decode("{\"timestamp\":\"5\"}").has_timestamp);
}

static void test_last_of_equal_keys_wins(void **state)
{
    (void)state;
    struct osb_event event = decode("{\"type\":\"init\",\"text\":\"a\\n\",\"type\":\"ping\",\"text\":\"b\\n\"}");
    assert_int_equal(event.type, OSB_EVENT_PING);
    assert_text(event, "b\n");
    event = decode("{\"type\":\"init\",\"text\":\"a\",\"timestamp\":1,\"type\":1,\"text\":null,\"timestamp\":\"\"}");
    assert_int_equal(event.type, OSB_EVENT_UNTYPED);
    assert_false(event.has_text);
    assert_false(event.has_timestamp);
    assert_int_equal(event.timestamp_ms, 0);
}

static void test_invalid(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "x",
        "[]",
        "\"a\"",
        "1",
        "null",
        "{",
        "}",
        "{}x",
        "{}{}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{\"a\":1e+}",
        "{\"a\":NaN}",
        "{\"a\":0x10}",
        "{\"a\":tru}",
        "{\"a\":nulll}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\u12\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\\n\"}",
        "{\"a\":[}",
        "{\"a\":[1,]}",
        "{\"a\":[1}}",
        "{\"a\":{\"b\"]}",
        "{\"a\":{\"b\":1]}",
        "{\"a\":[1 2]}",
        "{\"a\":{1:2}}",
        "{\"a\":[[[]]}",
        "{\"timestamp\":01}",
        "{\"timestamp\":-}",
        "{\"timestamp\":}",
        "{\"text\":\"\\\"}",
        "{\"text\":}",
        "{\"type\"",
        "\xef\xbb\xbf{}",
    };
    struct osb_event event;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        if (decode_bytes(texts[i], strlen(texts[i]), &event) != -1)
            fail_msg("taken as valid: %s", texts[i]);
    assert_int_equal(decode_bytes("{}\0", 3, &event), -1);
    assert_int_equal(decode_bytes("{\"a\":\"\\\0\"}", 10, &event), -1);
}

static void test_depth(void **state)
{
    (void)state;
    static char json[4 * OSB_EVENT_DEPTH + 16];
    struct osb_event event;
    for (size_t depth = OSB_EVENT_DEPTH - 1; depth <= OSB_EVENT_DEPTH; depth++) {
        size_t inner = depth - 1;
        memcpy(json, "{\"a\":", 5);
        memset(json + 5, '[', inner);
        memset(json + 5 + inner, ']', inner);
        json[5 + 2 * inner] = '}';
        assert_int_equal(decode_bytes(json, 6 + 2 * inner, &event), 0);
        json[5 + inner] = '[';
        assert_int_equal(decode_bytes(json, 6 + 2 * inner, &event), -1);
    }
    memset(json, '[', sizeof(json));
    memcpy(json, "{\"a\":", 5);
    assert_int_equal(decode_bytes(json, sizeof(json), &event), -1);
    memset(json + 5 + OSB_EVENT_DEPTH, ']', OSB_EVENT_DEPTH);
    json[5 + 2 * OSB_EVENT_DEPTH] = '}';
    assert_int_equal(decode_bytes(json, 6 + 2 * (size_t)OSB_EVENT_DEPTH, &event), -1);
}

#define event_test(function) cmocka_unit_test_teardown(function, drop_copies)

int main(void)
{
    const struct CMUnitTest tests[] = {
        event_test(test_wire_events), event_test(test_type_names),
        event_test(test_escapes),     event_test(test_alignment),
        event_test(test_numbers),     event_test(test_wrong_types_are_absent),
        event_test(test_invalid),     event_test(test_last_of_equal_keys_wins),
        event_test(test_depth),
    };
    return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
