/* Lists that are answered in pages. */
#ifndef OSB_PAGE_H
#define OSB_PAGE_H

#include <jansson.h>
#include <stdbool.h>

#include "runtime/shared/http_server.h"

#define OSB_PAGE_STATES 64

struct osb_page {
    long number; /* from 1 */
    long size;
    const char *states[OSB_PAGE_STATES]; /* wanted; none: all */
    size_t state_count;
    long total; /* items that were offered */
    json_t *items;
};

/* Reads page, pageSize and state of the query. False when it answered the request. */
bool osb_page_read(struct osb_page *page, struct osb_http_request *request);

/* True when `state` is wanted, in capitals or not. */
bool osb_page_wants(const struct osb_page *page, const char *state);

/* Counts an item that fits the filters; true when it is to be added to page->items. */
bool osb_page_takes(struct osb_page *page);

/* Answers with the items and frees what the page has. */
void osb_page_reply(struct osb_page *page, struct osb_http_request *request);

#endif
