#include "runtime/shared/http_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/shared/text.h"

#define MAX_QUERY 4096 /* parameters; more are refused */

/* ---- decoding the target ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes %XX (and '+' when `plus`) into a new string; NULL with *sound false for a bad escape or a NUL byte, else when
 * memory is out. */
static char *percent_decode(const char *text, size_t len, bool plus, bool *sound)
{
    char *out = malloc(len + 1);
    if (!out)
        return NULL;
    size_t size = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
            c = (char)(high * 16 + low);
            i += 2;
            if (low < 0 || c == '\0') {
                *sound = false;
                free(out);
                return NULL;
            }
        } else if (c == '+' && plus) {
            c = ' ';
        }
        out[size++] = c;
    }
    out[size] = '\0';
    return out;
}

static void drop_params(struct osb_http_request *request)
{
    for (size_t i = 0; i < request->param_count; i++)
        free(request->params[i]);
    request->param_count = 0;
}

/* Matches path segments of the target with a route's pattern, filling params and rest. */
static bool route_matches(struct osb_http_request *request, const char *pattern, size_t path_len, bool *sound)
{
    const char *path = request->target, *end = path + path_len;
    drop_params(request);
    for (;;) {
        if (*pattern == '\0')
            return path == end;
        if (strcmp(pattern, "*") == 0 && path == request->target)
            return true;
        if (strcmp(pattern, "/*") == 0) {
            request->rest = path;
            return path == end || *path == '/';
        }
        if (path == end || *path != '/' || *pattern != '/')
            return false;
        path++;
        pattern++;
        const char *slash = memchr(path, '/', (size_t)(end - path));
        size_t len = slash ? (size_t)(slash - path) : (size_t)(end - path);
        size_t pattern_len = strcspn(pattern, "/");
        char *segment = percent_decode(path, len, false, sound);
        if (!segment)
            return false;
        if (*pattern == ':' && len > 0 && request->param_count < OSB_HTTP_MAX_PARAMS) {
            request->params[request->param_count++] = segment;
        } else {
            bool same = strlen(segment) == pattern_len && memcmp(segment, pattern, pattern_len) == 0;
            free(segment);
            if (!same)
                return false;
        }
        path += len;
        pattern += pattern_len;
    }
}

static bool method_matches(const struct osb_http_route *route, const char *method)
{
    return strcmp(route->method, "*") == 0 || strcmp(route->method, method) == 0;
}

static bool parse_query(struct osb_http_request *request, const char *query, bool *sound)
{
    size_t capacity = 0;
    for (const char *part = query; *part;) {
        size_t len = strcspn(part, "&");
        if (len > 0) {
            if (request->query_count == capacity) {
                if (capacity >= MAX_QUERY) {
                    *sound = false;
                    return false;
                }
                capacity = capacity ? capacity * 2 : 8;
                struct osb_http_pair *grown = realloc(request->query, capacity * sizeof *grown);
                if (!grown)
                    return false;
                request->query = grown;
            }
            const char *equals = memchr(part, '=', len);
            size_t name_len = equals ? (size_t)(equals - part) : len;
            size_t value_at = equals ? name_len + 1 : len;
            struct osb_http_pair pair = {percent_decode(part, name_len, true, sound),
                                         percent_decode(part + value_at, len - value_at, true, sound)};
            if (!pair.name || !pair.value) {
                free(pair.name);
                free(pair.value);
                return false;
            }
            request->query[request->query_count++] = pair;
        }
        part += len;
        if (*part == '&')
            part++;
    }
    return true;
}

bool osb_http_request_parse(struct osb_http_request *request, bool *other_method)
{
    const struct osb_http_config *config = &request->server->config;
    bool sound = true;
    size_t path_len = strcspn(request->target, "?");
    for (size_t i = 0; i < config->route_count && sound; i++) {
        const struct osb_http_route *route = &config->routes[i];
        if (!route_matches(request, route->path, path_len, &sound))
            continue;
        if (method_matches(route, request->method)) {
            request->route = route;
            break;
        }
        *other_method = true;
    }
    if (!request->route)
        drop_params(request);
    const char *query = request->target[path_len] ? request->target + path_len + 1 : "";
    const bool whole = request->route && strcmp(request->route->path, "*") == 0;
    if (sound && (whole || parse_query(request, query, &sound)))
        return true;
    if (sound)
        request->broken = true;
    else
        osb_http_reply_error(request, MHD_HTTP_BAD_REQUEST, "INVALID_REQUEST_BODY", "malformed request target");
    return false;
}

void osb_http_request_free(struct osb_http_request *request)
{
    osb_watch_remove(request->hang_up);
    if (request->stream)
        osb_http_stream_detach(request->stream);
    drop_params(request);
    for (size_t i = 0; i < request->query_count; i++) {
        free(request->query[i].name);
        free(request->query[i].value);
    }
    free(request->query);
    while (request->headers) {
        struct osb_http_header *header = request->headers;
        request->headers = header->next;
        free(header->name);
        free(header->value);
        free(header);
    }
    if (request->response && !request->queued)
        MHD_destroy_response(request->response);
    osb_buf_free(&request->body);
    free(request->id);
    free(request->target);
    free(request);
}

/* ---- what handlers ask ---- */

const char *osb_http_request_method(const struct osb_http_request *request)
{
    return request->method;
}

const char *osb_http_request_target(const struct osb_http_request *request)
{
    return request->target;
}

const char *osb_http_request_param(const struct osb_http_request *request, size_t index)
{
    return index < request->param_count ? request->params[index] : NULL;
}

const char *osb_http_request_rest(const struct osb_http_request *request)
{
    return request->rest;
}

const char *osb_http_request_query_at(const struct osb_http_request *request, const char *name, size_t index)
{
    for (size_t i = 0; i < request->query_count; i++) {
        if (strcmp(request->query[i].name, name) == 0 && index-- == 0)
            return request->query[i].value;
    }
    return NULL;
}

const char *osb_http_request_query(const struct osb_http_request *request, const char *name)
{
    return osb_http_request_query_at(request, name, 0);
}

const char *osb_http_request_header(const struct osb_http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

struct header_walk {
    bool (*each)(void *context, const char *name, const char *value);
    void *context;
};

static enum MHD_Result walk_header(void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
    const struct header_walk *walk = context;
    (void)kind;
    return walk->each(walk->context, name, value ? value : "") ? MHD_YES : MHD_NO;
}

void osb_http_request_headers(const struct osb_http_request *request,
                              bool (*each)(void *context, const char *name, const char *value), void *context)
{
    struct header_walk walk = {each, context};
    MHD_get_connection_values(request->connection, MHD_HEADER_KIND, walk_header, &walk);
}

const char *osb_http_request_id(const struct osb_http_request *request)
{
    return request->id;
}

const char *osb_http_request_client(const struct osb_http_request *request)
{
    return request->client;
}

struct osb_http_peer *osb_http_request_peer(const struct osb_http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

const char *osb_http_request_body(const struct osb_http_request *request, size_t *len)
{
    *len = request->body.len;
    return osb_buf_data(&request->body);
}

json_t *osb_http_request_json(const struct osb_http_request *request, json_error_t *error)
{
    size_t len;
    const char *bytes = osb_http_request_body(request, &len);
    struct osb_buf clean = {0};
    *error = (json_error_t){.line = -1};
    size_t blank = 0;
    while (blank < len && memchr(" \t\r\n", bytes[blank], 4))
        blank++;
    if (blank == len) {
        snprintf(error->text, sizeof error->text, "EOF");
        return NULL;
    }
    if (!osb_utf8_valid(bytes, len)) {
        if (!osb_utf8_clean(&clean, bytes, len)) {
            snprintf(error->text, sizeof error->text, "out of memory");
            return NULL;
        }
        bytes = osb_buf_data(&clean);
        len = clean.len;
    }
    json_t *value = json_loadb(bytes, len, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, error);
    osb_buf_free(&clean);
    return value;
}

int64_t osb_http_request_body_size(const struct osb_http_request *request)
{
    if (osb_http_request_header(request, MHD_HTTP_HEADER_TRANSFER_ENCODING))
        return -1;
    const char *length = osb_http_request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length ? (int64_t)strtoll(length, NULL, 10) : 0;
}

struct MHD_Connection *osb_http_request_connection(const struct osb_http_request *request)
{
    return request->connection;
}

void osb_http_request_on_gone(struct osb_http_request *request, osb_http_handler gone, void *context)
{
    request->gone = gone;
    request->gone_context = context;
}

void osb_http_request_read(struct osb_http_request *request, osb_http_body_reader read, void *context)
{
    request->read = read;
    request->read_context = context;
    if (request->body_over)
        read(context, NULL, 0);
}

void osb_http_request_resume(struct osb_http_request *request)
{
    osb_http_request_wake(request);
}
