#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buf.h"

static void assert_holds(const struct osb_buf *buf, const char *expected)
{
    assert_int_equal(buf->len, strlen(expected));
    assert_memory_equal(osb_buf_data(buf), expected, buf->len);
}

static void test_empty_buffer_has_data(void **state)
{
    (void)state;
    struct osb_buf buf = {0};
    assert_non_null(osb_buf_data(&buf));
    assert_true(osb_buf_append(&buf, "", 0));
    assert_int_equal(buf.cap, 0);
    osb_buf_consume(&buf, 5);
    osb_buf_free(&buf);
}

static void test_append_and_consume(void **state)
{
    (void)state;
    struct osb_buf buf = {0};
    assert_true(osb_buf_append(&buf, "hello ", 6));
    assert_true(osb_buf_append_str(&buf, "world"));
    assert_true(osb_buf_append_byte(&buf, '!'));
    assert_holds(&buf, "hello world!");
    osb_buf_consume(&buf, 6);
    assert_holds(&buf, "world!");
    assert_true(osb_buf_append_str(&buf, "?"));
    assert_holds(&buf, "world!?");
    osb_buf_consume(&buf, 100);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.head, 0);
    osb_buf_free(&buf);
    assert_null(buf.base);
    assert_true(osb_buf_append_str(&buf, "again"));
    assert_holds(&buf, "again");
    osb_buf_free(&buf);
}

static void test_printf(void **state)
{
    (void)state;
    struct osb_buf buf = {0};
    char expected[1001];
    memset(expected, 'x', 1000);
    expected[1000] = '\0';
    assert_true(osb_buf_printf(&buf, "%d-%s;", 42, "a"));
    assert_holds(&buf, "42-a;");
    osb_buf_clear(&buf);
    assert_true(osb_buf_printf(&buf, "%s", expected));
    assert_holds(&buf, expected);
    osb_buf_free(&buf);
}

/* A queue that is fed and drained for long keeps its contents in order and its memory small. */
static void test_queue_stays_small(void **state)
{
    (void)state;
    struct osb_buf buf = {0};
    uint32_t in = 0, out = 0;
    for (int round = 0; round < 10000; round++) {
        for (int i = 0; i < 7; i++, in++)
            assert_true(osb_buf_append(&buf, &in, sizeof(in)));
        while (buf.len > 100) {
            uint32_t got;
            memcpy(&got, osb_buf_data(&buf), sizeof(got));
            assert_int_equal(got, out++);
            osb_buf_consume(&buf, sizeof(got));
        }
    }
    assert_true(buf.cap <= 1024);
    osb_buf_free(&buf);
}

static void test_impossible_size_is_refused(void **state)
{
    (void)state;
    struct osb_buf buf = {0};
    assert_true(osb_buf_append_str(&buf, "kept"));
    assert_false(osb_buf_reserve(&buf, SIZE_MAX));
    assert_false(osb_buf_reserve(&buf, SIZE_MAX / 4));
    assert_holds(&buf, "kept");
    osb_buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_buffer_has_data),
        cmocka_unit_test(test_append_and_consume),
        cmocka_unit_test(test_printf),
        cmocka_unit_test(test_queue_stays_small),
        cmocka_unit_test(test_impossible_size_is_refused),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
