/* Network policies, and which addresses are public. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>

#include "runtime/runtime/policy.h"

static union osb_address address_of(const char *text)
{
    union osb_address address = {.v6 = {0}};
    if (strchr(text, ':')) {
        address.any.sa_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, text, &address.v6.sin6_addr), 1);
    } else {
        address.any.sa_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, text, &address.v4.sin_addr), 1);
    }
    return address;
}

static struct osb_policy *policy_of(const char *text)
{
    struct osb_policy_error error;
    json_t *json = json_loads(text, 0, NULL);
    struct osb_policy *policy = osb_policy_parse(json, &error);
    json_decref(json);
    return policy;
}

static void public_addresses(void **state)
{
    static const char *const are[] = {"1.1.1.1",        "9.255.255.255",   "11.0.0.0",        "100.63.255.255",
                                      "100.128.0.0",    "126.255.255.255", "128.0.0.0",       "169.253.255.255",
                                      "172.15.255.255", "172.32.0.0",      "192.167.0.1",     "192.169.0.0",
                                      "198.17.255.255", "198.20.0.0",      "223.255.255.255", "2606:4700::1111",
                                      "2a00::1",        "2001:200::1",     "64:ff9b::101:101"};
    static const char *const are_not[] = {"0.0.0.0",
                                          "0.255.255.255",
                                          "10.0.0.0",
                                          "10.255.255.255",
                                          "100.64.0.0",
                                          "100.127.255.255",
                                          "127.0.0.1",
                                          "127.255.255.255",
                                          "169.254.0.0",
                                          "172.16.0.0",
                                          "172.31.255.255",
                                          "192.0.0.1",
                                          "192.0.2.255",
                                          "192.88.99.1",
                                          "192.168.0.0",
                                          "192.168.255.255",
                                          "198.18.0.0",
                                          "198.19.255.255",
                                          "198.51.100.1",
                                          "203.0.113.1",
                                          "224.0.0.0",
                                          "239.255.255.255",
                                          "240.0.0.0",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "::7f00:1",
                                          "::ffff:1.1.1.1",
                                          "::ffff:127.0.0.1",
                                          "fe80::1",
                                          "fec0::1",
                                          "fc00::1",
                                          "fdff::1",
                                          "ff02::1",
                                          "64:ff9b::a00:1",
                                          "64:ff9b:1::1",
                                          "2001::1",
                                          "2001:1ff::1",
                                          "2001:db8::1",
                                          "2002:101:101::",
                                          "3fff::1",
                                          "4000::1",
                                          "100::1"};
    (void)state;
    for (size_t i = 0; i < sizeof are / sizeof *are; i++) {
        union osb_address address = address_of(are[i]);
        if (!osb_address_is_public(&address))
            fail_msg("%s", are[i]);
    }
    for (size_t i = 0; i < sizeof are_not / sizeof *are_not; i++) {
        union osb_address address = address_of(are_not[i]);
        if (osb_address_is_public(&address))
            fail_msg("%s", are_not[i]);
    }
}

static void ranges(void **state)
{
    static const char *const are_none[] = {"",           "example.com", "1.2.3",        "1.2.3.4/",   "1.2.3.4/33",
                                           "1.2.3.4/-1", "1.2.3.4/8x",  "1.2.3.4/0008", "::1/129",    "1.2.3.4/8/8",
                                           "01.2.3.256", "fe80::1%lo",  "1.2.3.4 ",     "0x7f000001", "[::1]"};
    struct osb_range range;
    (void)state;
    for (size_t i = 0; i < sizeof are_none / sizeof *are_none; i++)
        assert_false(osb_range_parse(are_none[i], &range));
    union osb_address inside = address_of("10.1.255.255");
    union osb_address outside = address_of("10.2.0.0");
    union osb_address other = address_of("::");
    assert_true(osb_range_parse("10.0.0.0/15", &range));
    assert_true(osb_range_has(&range, &inside));
    assert_false(osb_range_has(&range, &outside));
    assert_true(osb_range_parse("0.0.0.0/0", &range));
    assert_true(osb_range_has(&range, &outside));
    assert_false(osb_range_has(&range, &other));
    assert_true(osb_range_parse("10.2.0.0", &range));
    assert_true(osb_range_has(&range, &outside));
    assert_false(osb_range_has(&range, &inside));
}

static void own_addresses(void **state)
{
    union osb_address loopback = address_of("127.0.0.1");
    union osb_address documentation = address_of("192.0.2.77");
    (void)state;
    assert_true(osb_address_is_own(&loopback));
    assert_false(osb_address_is_own(&documentation));
}

static void names(void **state)
{
    struct osb_policy *policy =
        policy_of("{\"defaultAction\": \"deny\", \"egress\": [{\"action\": \"allow\", \"target\": \"Example.com\"},"
                  "{\"action\": \"deny\", \"target\": \"bad.example.com\"}, {\"action\": \"allow\", \"target\": "
                  "\"*.example.com\"},"
                  "{\"action\": \"allow\", \"target\": \"bad.example.com\"}, {\"action\": \"allow\", \"target\": "
                  "\"10.0.0.0/8\"}]}");
    (void)state;
    assert_non_null(policy);
    assert_true(osb_policy_allows_name(policy, "example.COM"));
    assert_true(osb_policy_allows_name(policy, "a.b.example.com"));
    assert_false(osb_policy_allows_name(policy, "bad.example.com"));
    assert_true(osb_policy_allows_name(policy, "worse.bad.example.com"));
    assert_false(osb_policy_allows_name(policy, "badexample.com"));
    assert_false(osb_policy_allows_name(policy, ".example.com"));
    assert_false(osb_policy_allows_name(policy, "com"));
    assert_false(osb_policy_allows_name(policy, ""));
    assert_true(osb_policy_allows_name(policy, "192.0.2.1")); /* rules for addresses decide */
    assert_string_equal(osb_policy_mode(policy), "enforcing");
    osb_policy_free(policy);
}

static void addresses(void **state)
{
    struct osb_policy *policy = policy_of(
        "{\"egress\": [{\"action\": \"allow\", \"target\": \"192.0.2.0/24\"}, {\"action\": \"deny\", \"target\": "
        "\"192.0.2.7\"}, {\"action\": \"allow\", \"target\": \"2001:db8::/32\"}]}");
    union osb_address allowed = address_of("192.0.2.6");
    union osb_address denied = address_of("192.0.2.7");
    union osb_address unknown = address_of("192.0.3.1");
    union osb_address v6 = address_of("2001:db8::1");
    (void)state;
    assert_non_null(policy);
    assert_true(osb_policy_allows_address(policy, &allowed, false));
    assert_true(osb_policy_allows_address(policy, &v6, false));
    assert_false(osb_policy_allows_address(policy, &denied, false));
    assert_false(osb_policy_allows_address(policy, &denied, true)); /* a name that is allowed does not open it */
    assert_false(osb_policy_allows_address(policy, &unknown, false));
    assert_true(osb_policy_allows_address(policy, &unknown, true));
    osb_policy_free(policy);
    policy = osb_policy_new(true);
    assert_true(osb_policy_allows_address(policy, &unknown, false));
    assert_string_equal(osb_policy_mode(policy), "allow_all");
    osb_policy_free(policy);
}

static void shapes(void **state)
{
    static const char *const wrong[] = {"[]",
                                        "1",
                                        "{\"egress\": {}}",
                                        "{\"defaultAction\": \"perhaps\"}",
                                        "{\"defaultAction\": 1}",
                                        "{\"egress\": [null]}",
                                        "{\"egress\": [{\"action\": \"allow\"}]}",
                                        "{\"egress\": [{\"action\": \"allow\", \"target\": 1}]}",
                                        "{\"egress\": [{\"action\": \"allow\", \"target\": \" \"}]}"};
    static const char *const denying[] = {"{}", "{\"egress\": null}", "{\"defaultAction\": null}",
                                          "{\"defaultAction\": \" DENY \"}"};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_null(policy_of(wrong[i]));
    for (size_t i = 0; i < sizeof denying / sizeof *denying; i++) {
        struct osb_policy *policy = policy_of(denying[i]);
        assert_non_null(policy);
        assert_string_equal(osb_policy_mode(policy), "deny_all");
        assert_false(osb_policy_allows_name(policy, "example.com"));
        osb_policy_free(policy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(public_addresses), cmocka_unit_test(ranges),
        cmocka_unit_test(own_addresses),    cmocka_unit_test(names),
        cmocka_unit_test(addresses),        cmocka_unit_test(shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
