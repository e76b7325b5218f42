/* Failures of a transfer as the stable codes of the API. */
#ifndef OSB_ERROR_H
#define OSB_ERROR_H

#include <curl/curl.h>
#include <stdbool.h>

struct osb_failure {
    const char *code; /* static */
    bool before_send; /* no byte of the request can have been handled */
};

struct osb_failure osb_error_from_curl(CURLcode code);

#endif
