/* Who is asking: the headers of proxies, and Host and Origin. Three lines: an entry of
 * trusted_proxies, a header, another. The first byte chooses the header's kind. */
#include "server/access.h"
#include "server/address.h"
#include "server/config.h"
#include "server/log.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Cuts the next line off. */
static char *line(char **text)
{
    char *start = *text, *end = start + strcspn(start, "\n");
    *text = *end ? end + 1 : end;
    *end = 0;
    return start;
}

static void check_client(const struct addresses *a, bool forwarded, const char *header)
{
    struct address peer = {.known = true}, client, again;
    char text[ADDRESS_TEXT], same[ADDRESS_TEXT + 16];
    peer.bytes[10] = peer.bytes[11] = 0xff;
    peer.bytes[12] = 127; /* 127.0.0.1, which every proxy list here holds */
    peer.bytes[15] = 1;
    if (!address_trusted(a, &peer))
        abort();
    if (address_client(a, &peer, header, &client) || address_trusted(a, &client))
        return;
    address_print(&client, text);
    snprintf(same, sizeof same,
             !forwarded          ? "%s"
             : strchr(text, ':') ? "for=\"[%s]\""
                                 : "for=%s",
             text);
    if (client.known && (address_client(a, &peer, same, &again) ||
                         memcmp(client.bytes, again.bytes, sizeof client.bytes) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    log_level_set(LOG_ERROR);
    if (size == 0)
        return 0;
    char *all = strndup((const char *)data + 1, size - 1), *rest = all;
    if (!all)
        return 0;
    char local[] = "127.0.0.0/8", *proxies[] = {local, line(&rest)};
    bool forwarded = data[0] & 1;
    struct config c = {.trusted_proxies = {proxies, data[0] & 2 ? 2 : 1},
                       .forwarded_header = forwarded ? "Forwarded" : "X-Forwarded-For",
                       .listen = "127.0.0.1",
                       .keys_file = "",
                       .ws_url = ""};
    struct addresses *a = NULL;
    struct access *access = NULL;
    const char *first = line(&rest), *second = line(&rest);
    if (addresses_open(&c, &a) == ERR_OK)
        check_client(a, forwarded, first);
    addresses_close(a);
    if (access_open(&c, &access) == ERR_OK)
        access_check_page(access, &c, first, data[0] & 4 ? second : NULL);
    access_close(access);
    free(all);
    return 0;
}
