/* Where webhooks may go: addresses that look like others, and URLs that mean others than they say.
 */
#include "server/webhook_rules.h"

#include "server/config.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct fixture {
    struct config config;
    struct webhook_rules *rules;
    char secret[64];
};

static void open_with(struct fixture *f, const char *hosts)
{
    static const char secret[] = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\n";
    char *argv[] = {"tv3sd", "--webhook-hosts", (char *)hosts, "--webhook-secret-file", f->secret,
                    NULL};
    enum config_action action;
    memset(f, 0, sizeof *f);
    snprintf(f->secret, sizeof f->secret, "/tmp/tv3s-test-secret-XXXXXX");
    int fd = mkstemp(f->secret);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, secret, sizeof secret - 1), sizeof secret - 1);
    close(fd);
    assert_int_equal(config_load(&f->config, 5, argv, &action), ERR_OK);
    assert_int_equal(webhook_rules_open(&f->config, &f->rules), ERR_OK);
}

static void close_it(struct fixture *f)
{
    webhook_rules_close(f->rules);
    config_free(&f->config);
    unlink(f->secret);
}

/* As curl gives it when it makes a socket. */
static bool allowed(const struct fixture *f, const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    bool is_v4 = inet_pton(AF_INET, text, &v4.sin_addr) == 1;
    assert_true(is_v4 || inet_pton(AF_INET6, text, &v6.sin6_addr) == 1);
    const void *at = is_v4 ? (const void *)&v4 : &v6;
    struct address a = address_of(at);
    return webhook_address_allowed(f->rules, &a);
}

static void connections_are_made_to_public_addresses_alone(void **state)
{
    static const char *const public[] = {
        "1.1.1.1",        "9.255.255.255",   "11.0.0.0",    "100.63.255.255", "100.128.0.0",
        "172.15.0.1",     "172.32.0.1",      "192.167.0.1", "192.169.0.1",    "223.255.255.255",
        "::ffff:1.1.1.1", "2606:4700::1111", "2001:200::1", "2a00:1450::1",
    };
    static const char *const other[] = {
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        /* IPv6, and IPv4 in its clothes */
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0.0.0.0",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    };
    struct fixture f;
    struct address unknown = {.known = false};
    (void)state;
    open_with(&f, "hooks.test");
    for (size_t i = 0; i < sizeof public / sizeof *public; i++)
        if (!allowed(&f, public[i]))
            fail_msg("%s is public", public[i]);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (allowed(&f, other[i]))
            fail_msg("%s is not public", other[i]);
    assert_false(webhook_address_allowed(f.rules, &unknown));
    close_it(&f);
}

static void networks_that_are_listed_are_allowed_and_their_neighbours_not(void **state)
{
    struct fixture f;
    (void)state;
    open_with(&f, "hooks.test,10.1.0.0/16,fd00::/64,192.168.0.7:8080,[fd01::7]:80");
    assert_true(allowed(&f, "10.1.255.1") && allowed(&f, "::ffff:10.1.0.1"));
    assert_true(allowed(&f, "fd00::1") && allowed(&f, "192.168.0.7") && allowed(&f, "fd01::7"));
    assert_false(allowed(&f, "10.2.0.1") || allowed(&f, "fd00:0:0:1::1"));
    assert_false(allowed(&f, "192.168.0.8") || allowed(&f, "fd01::8") || allowed(&f, "127.0.0.1"));
    close_it(&f);
}

static void a_url_is_of_a_host_that_is_listed(void **state)
{
    static const char *const good[] = {
        "http://hooks.test/",       "https://hooks.test/a?b=c#d", "HTTP://HOOKS.TEST",
        "http://hooks.test:80/",    "https://hooks.test:443/",    "http://other.test:8080/x",
        "https://other.test:8080/", "http://[fd01::7]/",          "http://hooks.test/@evil.test/",
    };
    static const char *const bad[] = {
        "http://hooks.test:443/",
        "https://hooks.test:80/",
        "http://hooks.test:8080/",
        "http://other.test/",
        "https://other.test:8081/",
        "http://hooks.test:080a/",
        "http://hooks.test:65616/",
        "http://hooks.test:0/",
        /* who is called is behind the @, and a user is not wanted at all */
        "http://hooks.test@evil.test/",
        "http://hooks.test:80@evil.test/",
        "http://me@hooks.test/",
        "http://:@hooks.test/",
        "http://hooks.test%40evil.test/",
        "http://hooks.test\\@evil.test/",
        "http://evil.test\\.hooks.test/",
        "http://evil.test#@hooks.test/",
        "http://evil.test?@hooks.test/",
        /* names that are nearly it */
        "http://hooks.test./",
        "http://hooks.test.evil.test/",
        "http://evilhooks.test/",
        "http://hooks%2etest.evil.test/",
        "http://hooks.test%00.evil.test/",
        "http://hooks.test%0d%0ax:/",
        "http://hooks.test\r\nHost: evil.test/",
        "http://hooks\xef\xbc\x8etest.evil.test/",

        "http:hooks.test",
        "//hooks.test/",
        "hooks.test",
        "",
        "http://",
        /* no HTTP, and numbers that are addresses */
        "ftp://hooks.test/",
        "file://hooks.test/etc/passwd",
        "gopher://hooks.test/",
        "javascript:alert(1)",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd01::7%25eth0]:8080/",
    };
    struct fixture f;
    char host[WEBHOOK_HOST];
    (void)state;
    open_with(&f, "hooks.test,other.test:8080,[fd01::7]");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (webhook_url_check(f.rules, good[i], host) != ERR_OK)
            fail_msg("%s: %s", good[i], err_text());
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (webhook_url_check(f.rules, bad[i], host) != ERR_ARG)
            fail_msg("%s would be called, as %s", bad[i], host);
    assert_int_equal(webhook_url_check(f.rules, "https://Hooks.TEST/", host), ERR_OK);
    assert_string_equal(host, "hooks.test:443");
    close_it(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_are_made_to_public_addresses_alone),
        cmocka_unit_test(networks_that_are_listed_are_allowed_and_their_neighbours_not),
        cmocka_unit_test(a_url_is_of_a_host_that_is_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
