/* Turns the options table of core.transfer into libcurl settings. The table is made by http.lua, so a wrong type here
   is a bug of ours; what users gave (header values, paths) is checked all the same. */
#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

static const char *string_option(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "%s: a string expected, got %s", name, luaL_typename(L, -1));
    const char *value = lua_tostring(L, -1);
    lua_pop(L, 1); /* the options table keeps it alive */
    return value;
}

static double number_option(lua_State *L, int index, const char *name, double fallback)
{
    lua_getfield(L, index, name);
    double value = lua_isnil(L, -1) ? fallback : luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return value;
}

static bool flag_option(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    bool value = lua_toboolean(L, -1) != 0;
    lua_pop(L, 1);
    return value;
}

static void set_string(lua_State *L, int index, const char *name, CURL *easy, CURLoption option)
{
    const char *value = string_option(L, index, name);
    if (value)
        curl_easy_setopt(easy, option, value);
}

static bool out_of_memory(struct osb_transfer *transfer)
{
    transfer->failure = "limit";
    snprintf(transfer->failure_text, sizeof transfer->failure_text, "out of memory");
    return false;
}

static bool set_headers(lua_State *L, int index, struct osb_transfer *transfer)
{
    lua_getfield(L, index, "headers");
    luaL_checktype(L, -1, LUA_TTABLE);
    size_t count = osb_compat_rawlen(L, -1);
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (int)i);
        size_t len;
        const char *line = luaL_checklstring(L, -1, &len);
        if (strcspn(line, "\r\n") != len)
            luaL_error(L, "a header must not contain line ends or NUL bytes");
        struct curl_slist *headers = curl_slist_append(transfer->headers, line);
        lua_pop(L, 1);
        if (!headers)
            return out_of_memory(transfer);
        transfer->headers = headers;
    }
    lua_pop(L, 1);
    curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers);
    return true;
}

/* One part of a multipart body: {name=, filename=, type=, data= | file= | stream=true, size=}; on top of the stack. */
static bool add_part(lua_State *L, struct osb_transfer *transfer)
{
    int part_index = lua_gettop(L);
    curl_mimepart *part = curl_mime_addpart(transfer->mime);
    if (!part)
        return out_of_memory(transfer);
    CURLcode code = curl_mime_name(part, string_option(L, part_index, "name"));
    lua_getfield(L, part_index, "data");
    const char *file = string_option(L, part_index, "file");
    if (!lua_isnil(L, -1)) {
        size_t len;
        const char *bytes = luaL_checklstring(L, -1, &len);
        code = code ? code : curl_mime_data(part, bytes, len);
    } else if (file) {
        code = code ? code : curl_mime_filedata(part, file);
        if (code == CURLE_READ_ERROR) {
            transfer->failure = "io";
            snprintf(transfer->failure_text, sizeof transfer->failure_text, "the local file can't be read: %s",
                     strerror(errno));
            return false;
        }
    } else {
        struct osb_upload_source *source = &transfer->upload_sources[transfer->out_count];
        source->transfer = transfer;
        source->index = transfer->out_count++;
        double size = number_option(L, part_index, "size", -1);
        code = code ? code : curl_mime_data_cb(part, (curl_off_t)size, osb_transfer_read, NULL, NULL, source);
    }
    lua_pop(L, 1);
    const char *type = string_option(L, part_index, "type");
    const char *filename = string_option(L, part_index, "filename");
    code = code ? code : curl_mime_filename(part, filename); /* NULL takes away the local name that filedata set */
    if (type)
        code = code ? code : curl_mime_type(part, type);
    return code == CURLE_OK || out_of_memory(transfer);
}

static bool set_body(lua_State *L, int index, struct osb_transfer *transfer)
{
    CURL *easy = transfer->easy;
    const char *method = string_option(L, index, "method");
    luaL_argcheck(L, method, index, "method missing");
    lua_getfield(L, index, "parts");
    lua_getfield(L, index, "body");
    size_t parts = lua_istable(L, -2) ? osb_compat_rawlen(L, -2) : 0;
    bool stream = flag_option(L, index, "stream_body");
    if (parts > 0 || stream) {
        transfer->upload_sources = calloc(parts + 1, sizeof *transfer->upload_sources);
        if (!transfer->upload_sources)
            return out_of_memory(transfer);
    }
    if (parts > 0) {
        transfer->mime = curl_mime_init(easy);
        if (!transfer->mime)
            return out_of_memory(transfer);
        for (size_t i = 1; i <= parts; i++) {
            lua_rawgeti(L, -2, (int)i);
            if (!add_part(L, transfer))
                return false;
            lua_pop(L, 1);
        }
        curl_easy_setopt(easy, CURLOPT_MIMEPOST, transfer->mime);
    } else if (stream) {
        transfer->upload_sources[0] = (struct osb_upload_source){transfer, 0};
        transfer->out_count = 1;
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, osb_transfer_read);
        curl_easy_setopt(easy, CURLOPT_READDATA, (void *)transfer->upload_sources);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)number_option(L, index, "size", -1));
    } else if (!lua_isnil(L, -1)) {
        size_t len;
        const char *body = luaL_checklstring(L, -1, &len); /* not copied: the options table is the user value */
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    } else if (strcmp(method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    }
    if (transfer->is_upgrade || (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0))
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    else if (parts > 0 || stream || !lua_isnil(L, -1))
        luaL_error(L, "a %s request has no body", method);
    lua_pop(L, 2);
    return true;
}

static bool set_sink(lua_State *L, int index, struct osb_transfer *transfer)
{
    const char *sink = string_option(L, index, "sink");
    const char *file = string_option(L, index, "file");
    if (file) {
        int mode = flag_option(L, index, "append") ? O_APPEND : O_TRUNC;
        transfer->sink = OSB_SINK_FILE;
        transfer->file_fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC | mode, 0666);
        if (transfer->file_fd < 0) {
            transfer->failure = "io";
            snprintf(transfer->failure_text, sizeof transfer->failure_text, "the local file can't be written: %s",
                     strerror(errno));
            return false;
        }
    } else if (sink) {
        transfer->sink = OSB_SINK_QUEUE;
    }
    /* an event stream keeps libcurl's small buffer: a thousand of them must fit */
    if (!sink || strcmp(sink, "events") != 0)
        curl_easy_setopt(transfer->easy, CURLOPT_BUFFERSIZE, 256L << 10);
    if (transfer->mime || transfer->out_count > 0)
        curl_easy_setopt(transfer->easy, CURLOPT_UPLOAD_BUFFERSIZE, 512L << 10);
    return true;
}

bool osb_transfer_configure(lua_State *L, int index, struct osb_transfer *transfer)
{
    CURL *easy = transfer->easy;
    const char *url = string_option(L, index, "url");
    luaL_argcheck(L, url, index, "url missing");
    curl_easy_setopt(easy, CURLOPT_URL, url);
    transfer->is_upgrade = flag_option(L, index, "upgrade");
    if (!set_headers(L, index, transfer) || !set_body(L, index, transfer) || !set_sink(L, index, transfer))
        return false;
    double connect_timeout = number_option(L, index, "connect_timeout", 10);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(connect_timeout * 1000) + 1);
    transfer->header_timeout = number_option(L, index, "header_timeout", 0);
    transfer->idle_timeout = number_option(L, index, "idle_timeout", 0);
    transfer->ping_idle_timeout = number_option(L, index, "ping_idle_timeout", 0);
    double deadline = number_option(L, index, "deadline", OSB_NEVER); /* absolute, on the clock of core.now */
    transfer->deadline = deadline;
    transfer->progress_step = (curl_off_t)number_option(L, index, "progress_step", 0);
    double body_limit = number_option(L, index, "body_limit", 0);
    if (body_limit > 0)
        transfer->body_limit = (size_t)body_limit;
    transfer->once = flag_option(L, index, "once");
    transfer->is_line_stream = flag_option(L, index, "lines");
    if (transfer->is_upgrade) {
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
        curl_easy_setopt(easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
    }
    if (transfer->is_upgrade || flag_option(L, index, "http1"))
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    set_string(L, index, "proxy", easy, CURLOPT_PROXY);
    set_string(L, index, "no_proxy", easy, CURLOPT_NOPROXY);
    set_string(L, index, "ca_file", easy, CURLOPT_CAINFO);
    set_string(L, index, "ca_path", easy, CURLOPT_CAPATH);
    set_string(L, index, "cert_file", easy, CURLOPT_SSLCERT);
    set_string(L, index, "key_file", easy, CURLOPT_SSLKEY);
    if (flag_option(L, index, "insecure")) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    return true;
}
