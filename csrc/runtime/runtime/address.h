/* Internet addresses: ranges of them, and which ones a sandbox may be connected to. */
#ifndef OSB_ADDRESS_H
#define OSB_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

union osb_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* All addresses whose first `bits` bits are these. */
struct osb_range {
    int family; /* AF_INET or AF_INET6 */
    unsigned int bits;
    uint8_t bytes[16];
};

/* Reads "10.0.0.0/8", "2001:db8::/32" or a single address; false when it is none. */
bool osb_range_parse(const char *text, struct osb_range *range);

bool osb_range_has(const struct osb_range *range, const union osb_address *address);

/* An address of the public internet: not of this machine, its networks, nor of any special use. */
bool osb_address_is_public(const union osb_address *address);

/* One of the machine's own addresses. True also when that can't be found out. */
bool osb_address_is_own(const union osb_address *address);

/* The size that connect wants to know. */
socklen_t osb_address_size(const union osb_address *address);

#endif
