#include "error.h"

struct osb_failure osb_error_from_curl(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return (struct osb_failure){"dns", true};
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
    case CURLE_INTERFACE_FAILED:
        return (struct osb_failure){"connect", true};
    case CURLE_OPERATION_TIMEDOUT: /* only the connect time-out is libcurl's; the others are ours */
        return (struct osb_failure){"connect", true};
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return (struct osb_failure){"tls", true};
    case CURLE_PARTIAL_FILE:
        return (struct osb_failure){"truncated", false};
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return (struct osb_failure){"protocol", false};
    case CURLE_OUT_OF_MEMORY:
        return (struct osb_failure){"limit", false};
    default:
        return (struct osb_failure){"network", false};
    }
}
