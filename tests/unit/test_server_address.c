#include "server/address.h"
#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

struct fixture {
    struct config config;
    struct addresses *addresses;
};

static void open_with(struct fixture *f, const char *proxies, const char *header)
{
    char *argv[] = {"tv3sd",
                    "--trusted-proxies",
                    (char *)proxies,
                    "--forwarded-header",
                    (char *)header,
                    "--address-connections",
                    "2",
                    NULL};
    enum config_action action;
    *f = (struct fixture){0};
    assert_int_equal(config_load(&f->config, 7, argv, &action), ERR_OK);
    assert_int_equal(addresses_open(&f->config, &f->addresses), ERR_OK);
}

static void close_it(struct fixture *f)
{
    addresses_close(f->addresses);
    config_free(&f->config);
}

/* By the way of a list of one, from a proxy that counts. */
static struct address at(const char *text)
{
    struct fixture f;
    struct address proxy = {.known = true}, out;
    open_with(&f, "::/128", "X-Forwarded-For");
    assert_int_equal(address_client(f.addresses, &proxy, text, &out), ERR_OK);
    close_it(&f);
    return out;
}

static const char *client(struct fixture *f, const char *peer, const char *header)
{
    static char text[ADDRESS_TEXT];
    struct address from = at(peer), out;
    if (address_client(f->addresses, &from, header, &out))
        return "malformed";
    address_print(&out, text);
    return text;
}

static void the_header_of_a_stranger_does_not_count(void **state)
{
    struct fixture f;
    (void)state;
    open_with(&f, "10.0.0.0/8,2001:db8::/33", "X-Forwarded-For");
    assert_string_equal(client(&f, "192.0.2.1", "198.51.100.7"), "192.0.2.1");
    assert_string_equal(client(&f, "11.0.0.1", "198.51.100.7"), "11.0.0.1");
    assert_string_equal(client(&f, "2001:db8:8000::1", "198.51.100.7"), "2001:db8:8000::1");
    assert_string_equal(client(&f, "2001:db8:7fff::1", "198.51.100.7"), "198.51.100.7");
    assert_string_equal(client(&f, "10.255.0.1", "198.51.100.7"), "198.51.100.7");
    assert_string_equal(client(&f, "10.1.1.1", NULL), "10.1.1.1");
    close_it(&f);
}

static void what_stands_before_the_last_stranger_is_made_up(void **state)
{
    struct fixture f;
    (void)state;
    open_with(&f, "10.0.0.0/8", "X-Forwarded-For");
    assert_string_equal(client(&f, "10.1.1.1", "1.2.3.4, 198.51.100.7, 10.9.9.9"), "198.51.100.7");
    assert_string_equal(client(&f, "10.1.1.1", "nonsense,198.51.100.7"), "198.51.100.7");
    assert_string_equal(client(&f, "10.1.1.1", "10.2.2.2,10.3.3.3"), "10.2.2.2");
    assert_string_equal(client(&f, "10.1.1.1", "198.51.100.7:8080"), "198.51.100.7");
    assert_string_equal(client(&f, "10.1.1.1", "[2001:db8::7]:80"), "2001:db8::7");
    for (const char *const *bad = (const char *const[]){"nonsense", "1.2.3.4,", ",", "1.2.3", NULL};
         *bad; bad++)
        assert_string_equal(client(&f, "10.1.1.1", *bad), "malformed");
    close_it(&f);
}

static void forwarded_is_read_as_its_rfc_says(void **state)
{
    struct fixture f;
    (void)state;
    open_with(&f, "10.0.0.1", "Forwarded");
    assert_string_equal(client(&f, "10.0.0.1", "for=192.0.2.60;proto=http;by=203.0.113.43"),
                        "192.0.2.60");
    assert_string_equal(client(&f, "10.0.0.1", "For=\"[2001:db8:cafe::17]:4711\""),
                        "2001:db8:cafe::17");
    assert_string_equal(client(&f, "10.0.0.1", "for=1.1.1.1, proto=https; for=192.0.2.43"),
                        "192.0.2.43");
    assert_string_equal(client(&f, "10.0.0.1", "proto=https"), "malformed");
    assert_string_equal(client(&f, "10.0.0.1", "for=unknown"), "malformed");
    close_it(&f);
}

static void networks_are_checked(void **state)
{
    (void)state;
    for (const char *const *bad = (const char *const[]){"10.0.0.0/33", "10.0.0/8", "::/129",
                                                        "10.0.0.0/", "10.0.0.0/-1", "x", NULL};
         *bad; bad++) {
        char *argv[] = {"tv3sd", "--trusted-proxies", (char *)*bad, NULL};
        struct fixture f = {0};
        enum config_action action;
        assert_int_equal(config_load(&f.config, 3, argv, &action), ERR_OK);
        assert_int_equal(addresses_open(&f.config, &f.addresses), ERR_ARG);
        close_it(&f);
    }
}

static void an_address_has_so_many_connections(void **state)
{
    struct fixture f;
    (void)state;
    open_with(&f, "10.0.0.0/8", "X-Forwarded-For");
    struct address a = at("2001:db8::1"), same = at("2001:db8::ffff"), b = at("2001:db8:0:1::1");
    struct address proxy = at("10.0.0.1"), none = {0};
    assert_int_equal(address_enter(f.addresses, &a), ERR_OK);
    assert_int_equal(address_enter(f.addresses, &same), ERR_OK);
    assert_true(address_full(f.addresses, &a));
    assert_int_equal(address_enter(f.addresses, &a), ERR_ADDRESS);
    assert_int_equal(address_enter(f.addresses, &b), ERR_OK);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(address_enter(f.addresses, &proxy), ERR_OK);
        assert_int_equal(address_enter(f.addresses, &none), ERR_OK);
    }
    address_leave(f.addresses, &same);
    assert_int_equal(address_enter(f.addresses, &same), ERR_OK);
    close_it(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_of_a_stranger_does_not_count),
        cmocka_unit_test(what_stands_before_the_last_stranger_is_made_up),
        cmocka_unit_test(forwarded_is_read_as_its_rfc_says),
        cmocka_unit_test(networks_are_checked),
        cmocka_unit_test(an_address_has_so_many_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
