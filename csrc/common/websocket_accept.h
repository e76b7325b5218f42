/* The answer that proves that a server speaks WebSocket (RFC 6455, 4.2.2). */
#ifndef OSB_WEBSOCKET_ACCEPT_H
#define OSB_WEBSOCKET_ACCEPT_H

#include <stddef.h>

#define OSB_WEBSOCKET_KEY_LEN 24    /* characters of a Sec-WebSocket-Key: 16 bytes in base64 */
#define OSB_WEBSOCKET_ACCEPT_LEN 28 /* characters of a Sec-WebSocket-Accept */

/* Writes the Sec-WebSocket-Accept that goes with a Sec-WebSocket-Key, with a NUL behind it. */
void osb_websocket_accept(const char *key, size_t len, char accept[OSB_WEBSOCKET_ACCEPT_LEN + 1]);

#endif
