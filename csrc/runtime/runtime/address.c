#include "runtime/runtime/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>

#define RANGE_TEXT (INET6_ADDRSTRLEN + sizeof "/128")

/* What the IANA registry of special purposes and multicast take out of IPv4. */
static const struct {
    uint32_t base;
    unsigned int bits;
} special_v4[] = {
    {0x00000000, 8},  /* this network */
    {0x0a000000, 8},  /* private */
    {0x64400000, 10}, /* carriers' NAT */
    {0x7f000000, 8},  /* loopback */
    {0xa9fe0000, 16}, /* link-local; cloud machines' metadata */
    {0xac100000, 12}, /* private */
    {0xc0000000, 24}, /* protocol assignments */
    {0xc0000200, 24}, /* documentation */
    {0xc0586300, 24}, /* 6to4 relays */
    {0xc0a80000, 16}, /* private */
    {0xc6120000, 15}, /* benchmarks */
    {0xc6336400, 24}, /* documentation */
    {0xcb007100, 24}, /* documentation */
    {0xe0000000, 3},  /* multicast, reserved, broadcast */
};

/* Outside 2000::/3 nothing of IPv6 is public, so that loopback, ULA, link-local, mapped and multicast need no line. */
static const struct osb_range global_v6 = {AF_INET6, 3, {0x20}};
static const struct osb_range nat64 = {AF_INET6, 96, {0x00, 0x64, 0xff, 0x9b}};
static const struct osb_range special_v6[] = {
    {AF_INET6, 23, {0x20, 0x01}},             /* protocol assignments, Teredo */
    {AF_INET6, 32, {0x20, 0x01, 0x0d, 0xb8}}, /* documentation */
    {AF_INET6, 16, {0x20, 0x02}},             /* 6to4, which holds IPv4 addresses of all kinds */
    {AF_INET6, 20, {0x3f, 0xff}},             /* documentation */
};

bool osb_range_parse(const char *text, struct osb_range *range)
{
    char address[RANGE_TEXT];
    const size_t len = strcspn(text, "/");
    if (len >= sizeof address)
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    *range = (struct osb_range){.family = strchr(address, ':') ? AF_INET6 : AF_INET};
    const unsigned int most = range->family == AF_INET6 ? 128 : 32;
    range->bits = most;
    if (inet_pton(range->family, address, range->bytes) != 1)
        return false;
    if (text[len] == '\0')
        return true;
    const char *digits = text + len + 1;
    const size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 3 || digits[count] != '\0')
        return false;
    range->bits = (unsigned int)strtoul(digits, NULL, 10);
    return range->bits <= most;
}

static const uint8_t *bytes_of(const union osb_address *address)
{
    return address->any.sa_family == AF_INET6 ? address->v6.sin6_addr.s6_addr
                                              : (const uint8_t *)&address->v4.sin_addr.s_addr;
}

bool osb_range_has(const struct osb_range *range, const union osb_address *address)
{
    if (range->family != address->any.sa_family)
        return false;
    const uint8_t *bytes = bytes_of(address);
    const unsigned int whole = range->bits / 8;
    const unsigned int rest = range->bits % 8;
    return memcmp(bytes, range->bytes, whole) == 0 &&
           (rest == 0 || (bytes[whole] ^ range->bytes[whole]) >> (8 - rest) == 0);
}

static bool is_public_v4(uint32_t host)
{
    for (size_t i = 0; i < sizeof special_v4 / sizeof *special_v4; i++) {
        if ((host ^ special_v4[i].base) >> (32 - special_v4[i].bits) == 0)
            return false;
    }
    return true;
}

bool osb_address_is_public(const union osb_address *address)
{
    if (address->any.sa_family == AF_INET)
        return is_public_v4(ntohl(address->v4.sin_addr.s_addr));
    if (address->any.sa_family != AF_INET6)
        return false;
    if (osb_range_has(&nat64, address)) { /* a translator's address for the IPv4 one in its last bytes */
        uint32_t host;
        memcpy(&host, address->v6.sin6_addr.s6_addr + 12, sizeof host);
        return is_public_v4(ntohl(host));
    }
    bool is_public = osb_range_has(&global_v6, address);
    for (size_t i = 0; i < sizeof special_v6 / sizeof *special_v6 && is_public; i++)
        is_public = !osb_range_has(&special_v6[i], address);
    return is_public;
}

bool osb_address_is_own(const union osb_address *address)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0)
        return true;
    const int family = address->any.sa_family;
    bool found = false;
    for (const struct ifaddrs *item = all; item && !found; item = item->ifa_next) {
        union osb_address own;
        if (!item->ifa_addr || item->ifa_addr->sa_family != family)
            continue;
        memcpy(&own, item->ifa_addr, family == AF_INET6 ? sizeof own.v6 : sizeof own.v4);
        found = memcmp(bytes_of(&own), bytes_of(address), family == AF_INET6 ? 16 : 4) == 0;
    }
    freeifaddrs(all);
    return found;
}

socklen_t osb_address_size(const union osb_address *address)
{
    return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}
