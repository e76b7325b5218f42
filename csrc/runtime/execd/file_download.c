/* GET /files/download: whole files, byte ranges, windows of lines. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "file_job.h"
#include "runtime/shared/text.h"

struct download {
    char *range;          /* Range header, or NULL */
    char *modified_since; /* If-Modified-Since header, or NULL */
    bool lines;           /* a window of lines is asked for */
};

static void download_free(struct download *download)
{
    free(download->range);
    free(download->modified_since);
    free(download);
}

/* ---- lines ---- */

/* Reads "offset" or "limit": absent gives `standard`; false with the outcome set when it isn't a number from 1 on. */
static bool read_line_number(struct osb_file_job *job, const char *name, long long standard, long long *value)
{
    const char *given = osb_http_request_query(job->request, name);
    char *end;
    *value = standard;
    if (!given || !*given)
        return true;
    errno = 0;
    *value = strtoll(given, &end, 10);
    if (*end || errno || *value < 1)
        return osb_file_fail(job, 400, OSB_INVALID_REQUEST, "invalid query parameter '%s': %s", name, given);
    return true;
}

/* Copies the window's lines, without their ends and with "\n" between them. */
static bool copy_lines(FILE *from, FILE *to, long long offset, long long limit)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    long long number = 0, written = 0;
    while (written < limit && (len = getdelim(&line, &room, '\n', from)) > 0) {
        if (++number < offset)
            continue;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        if (written++ > 0)
            putc('\n', to);
        fwrite(line, 1, (size_t)len, to);
    }
    free(line);
    return !ferror(from) && fflush(to) == 0 && !ferror(to);
}

/* Answers with the window, through an unnamed file. Takes `file`. */
static void serve_lines(struct osb_file_job *job, int file, const char *path)
{
    long long offset, limit;
    FILE *from = fdopen(file, "r");
    FILE *to = tmpfile();
    if (!from)
        close(file);
    if (!from || !to) {
        osb_file_fail_errno(job, errno == ENOENT ? EIO : errno, "read %s", path);
    } else if (read_line_number(job, "offset", 1, &offset) && read_line_number(job, "limit", INT64_MAX, &limit)) {
        if (!copy_lines(from, to, offset, limit)) {
            osb_file_fail_errno(job, errno, "read %s", path);
        } else {
            job->fd = dup(fileno(to));
            job->size = (uint64_t)lseek(job->fd, 0, SEEK_END);
            osb_file_add_header(job, "Content-Type", "text/plain; charset=utf-8");
        }
    }
    if (from)
        fclose(from);
    if (to)
        fclose(to);
}

/* ---- bytes ---- */

/* Whole digits, at least one; false otherwise. */
static bool read_digits(const char **at, int64_t *value)
{
    const char *begin = *at;
    *value = 0;
    for (; **at >= '0' && **at <= '9'; ++*at) {
        if (*value > (INT64_MAX - 9) / 10)
            return false;
        *value = *value * 10 + (**at - '0');
    }
    return *at > begin;
}

/* The first range of a Range header that lies within the file. 1: found; 0: none of them does; -1: malformed; 2: it
 * names none. */
static int find_range(const char *header, int64_t size, uint64_t *start, uint64_t *length)
{
    int found = 0;
    if (strncmp(header, "bytes=", 6) != 0)
        return -1;
    if (header[6 + strspn(header + 6, " \t,")] == '\0')
        return 2;
    for (const char *at = header + 6; *at;) {
        int64_t first, last;
        at += strspn(at, " \t,");
        if (!*at)
            break;
        if (*at == '-') {
            at++;
            if (!read_digits(&at, &last))
                return -1;
            first = last > size ? 0 : size - last;
            last = size - 1;
        } else {
            if (!read_digits(&at, &first) || *at++ != '-')
                return -1;
            last = size - 1;
            if (*at >= '0' && *at <= '9' && (!read_digits(&at, &last) || last < first))
                return -1;
        }
        at += strspn(at, " \t");
        if (*at && *at != ',')
            return -1;
        if (found || first >= size)
            continue;
        *start = (uint64_t)first;
        *length = (uint64_t)((last < size ? last : size - 1) - first + 1);
        found = 1;
    }
    return found;
}

/* filename="…", encoded when it isn't plain ASCII. */
static void add_disposition(struct osb_file_job *job, const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~$&+=:@";
    struct osb_buf encoded = {0};
    bool ascii = true, built = true;
    for (const char *at = name; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        ascii = ascii && byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
        built = built &&
                (strchr(plain, *at) ? osb_buf_append_byte(&encoded, *at) : osb_buf_printf(&encoded, "%%%02X", byte));
    }
    built = built && osb_buf_append_byte(&encoded, '\0');
    if (ascii || !built)
        osb_file_add_header(job, "Content-Disposition", "attachment; filename=\"%s\"", ascii ? name : "file");
    else
        osb_file_add_header(job, "Content-Disposition", "attachment; filename=\"%s\"; filename*=UTF-8''%s",
                            osb_buf_data(&encoded), osb_buf_data(&encoded));
    osb_buf_free(&encoded);
}

static void serve_bytes(struct osb_file_job *job, int file, const char *path, const struct stat *info)
{
    const struct download *download = job->context;
    const char *slash = strrchr(path, '/');
    struct tm parts;
    char modified[64];
    gmtime_r(&info->st_mtim.tv_sec, &parts);
    strftime(modified, sizeof modified, "%a, %d %b %Y %H:%M:%S GMT", &parts);
    job->size = (uint64_t)info->st_size;
    int found = download->range ? find_range(download->range, info->st_size, &job->offset, &job->size) : 2;
    if (found != 2) {
        if (found < 0) {
            close(file);
            osb_file_add_header(job, "Content-Range", "bytes */%lld", (long long)info->st_size);
            osb_file_fail(job, 416, "UNKNOWN", "range is not valid: %s", download->range);
            return;
        }
        if (found == 0) {
            close(file);
            osb_file_add_header(job, "Content-Range", "bytes */%lld", (long long)info->st_size);
            osb_file_fail(job, 416, "UNKNOWN", "range lies outside of the file, which has %lld bytes",
                          (long long)info->st_size);
            return;
        }
        job->status = 206;
        osb_file_add_header(job, "Content-Range", "bytes %llu-%llu/%lld", (unsigned long long)job->offset,
                            (unsigned long long)(job->offset + job->size - 1), (long long)info->st_size);
    } else if (download->modified_since && strcmp(download->modified_since, modified) == 0) {
        close(file);
        job->status = 304;
        return;
    }
    job->fd = file;
    osb_file_add_header(job, "Accept-Ranges", "bytes");
    osb_file_add_header(job, "Content-Type", "application/octet-stream");
    osb_file_add_header(job, "Last-Modified", "%s", modified);
    add_disposition(job, slash ? slash + 1 : path);
}

static void serve(struct osb_file_job *job, const char *path)
{
    struct stat info;
    const struct download *download = job->context;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &info) < 0) {
        osb_file_fail_errno(job, errno, "open %s", path);
    } else if (!S_ISREG(info.st_mode)) {
        osb_file_fail_errno(job, S_ISDIR(info.st_mode) ? EISDIR : EINVAL, "read %s", path);
    } else if (download->lines) {
        serve_lines(job, file, path);
        return;
    } else {
        serve_bytes(job, file, path, &info);
        return;
    }
    if (file >= 0)
        close(file);
}

static void work_download(struct osb_file_job *job)
{
    char error[OSB_PATH_ERROR_SIZE];
    struct download *download = job->context;
    const char *given = osb_http_request_query(job->request, "path");
    char *path = osb_path_expand(given, NULL, error);
    if (path)
        serve(job, path);
    else
        osb_file_fail(job, 500, OSB_RUNTIME_ERROR, "error resolving file path: %s. %s", given, error);
    free(path);
    download_free(download);
}

void osb_file_download(struct osb_http_request *request, void *context)
{
    const char *path = osb_http_request_query(request, "path"), *range = osb_http_request_header(request, "Range");
    const char *since = osb_http_request_header(request, "If-Modified-Since");
    const char *offset = osb_http_request_query(request, "offset"), *limit = osb_http_request_query(request, "limit");
    if (!path || !*path) {
        osb_http_reply_error(request, 400, OSB_MISSING_QUERY, "missing query parameter 'path'");
        return;
    }
    bool lines = (offset && *offset) || (limit && *limit);
    if (range && lines) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST,
                             "line-based reading (offset/limit) and byte range (Range header) are mutually exclusive");
        return;
    }
    struct download *download = calloc(1, sizeof *download);
    if (!download || (range && !(download->range = strdup(range))) ||
        (since && !(download->modified_since = strdup(since)))) {
        if (download)
            download_free(download);
        osb_http_reply_drop(request);
        return;
    }
    download->lines = lines;
    osb_file_job_start(request, context, NULL, download, work_download);
}
