#include "runtime/runtime/page.h"

#include <strings.h>

#include "runtime/runtime/api.h"

#define DEFAULT_PAGE_SIZE 20
#define MAX_PAGE_SIZE 200
#define MAX_PAGE 1000000

bool osb_page_read(struct osb_page *page, struct osb_http_request *request)
{
    const char *state;
    *page = (struct osb_page){.number = osb_api_count(request, "page", MAX_PAGE, 1)};
    page->size = page->number < 0 ? -1 : osb_api_count(request, "pageSize", MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE);
    if (page->size < 0)
        return false;
    while (page->state_count < OSB_PAGE_STATES &&
           (state = osb_http_request_query_at(request, "state", page->state_count)) != NULL)
        page->states[page->state_count++] = state;
    page->items = json_array();
    return true;
}

bool osb_page_wants(const struct osb_page *page, const char *state)
{
    bool found = page->state_count == 0;
    for (size_t i = 0; i < page->state_count && !found; i++)
        found = strcasecmp(page->states[i], state) == 0;
    return found;
}

bool osb_page_takes(struct osb_page *page)
{
    return page->total++ / page->size == page->number - 1;
}

void osb_page_reply(struct osb_page *page, struct osb_http_request *request)
{
    const long pages = (page->total + page->size - 1) / page->size;
    osb_http_reply_json(request, 200,
                        json_pack("{s:o, s:{s:I, s:I, s:I, s:I, s:b}}", "items", page->items, "pagination", "page",
                                  (json_int_t)page->number, "pageSize", (json_int_t)page->size, "totalItems",
                                  (json_int_t)page->total, "totalPages", (json_int_t)pages, "hasNextPage",
                                  page->number < pages));
}
