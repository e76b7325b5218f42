#include "websocket_accept.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <stdint.h>

static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

void osb_websocket_accept(const char *key, size_t len, char accept[OSB_WEBSOCKET_ACCEPT_LEN + 1])
{
    struct sha1_ctx hash;
    uint8_t digest[SHA1_DIGEST_SIZE];
    sha1_init(&hash);
    sha1_update(&hash, len, (const uint8_t *)key);
    sha1_update(&hash, sizeof guid - 1, (const uint8_t *)guid);
    sha1_digest(&hash, sizeof digest, digest);
    base64_encode_raw(accept, sizeof digest, digest);
    accept[OSB_WEBSOCKET_ACCEPT_LEN] = '\0';
}
