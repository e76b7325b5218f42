#include "environment.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buf.h"

extern char **environ;

static char **base; /* "NAME=value", NULL-terminated; set once at the start */
static size_t base_count;

static const char *const secrets[] = {"EXECD_ACCESS_TOKEN", "JUPYTER_TOKEN", NULL};
static const char *const defaults[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                       "HOME=/root", "LANG=C.UTF-8", NULL};

static bool same_name(const char *entry, const char *name, size_t len)
{
    return strncmp(entry, name, len) == 0 && entry[len] == '=';
}

static bool is_secret(const char *entry)
{
    for (const char *const *name = secrets; *name; name++) {
        if (same_name(entry, *name, strlen(*name)))
            return true;
    }
    return false;
}

static const char *find(char *const *entries, size_t count, const char *name, size_t len)
{
    for (size_t i = 0; i < count; i++) {
        if (same_name(entries[i], name, len))
            return entries[i] + len + 1;
    }
    return NULL;
}

bool osb_environment_init(void)
{
    size_t count = 0;
    while (environ[count])
        count++;
    base = calloc(count + sizeof defaults / sizeof *defaults + 1, sizeof *base);
    if (!base)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (strchr(environ[i], '=') && !is_secret(environ[i]) && !(base[base_count++] = strdup(environ[i])))
            return false;
    }
    for (const char *const *entry = defaults; *entry; entry++) {
        if (!find(base, base_count, *entry, strcspn(*entry, "=")) && !(base[base_count++] = strdup(*entry)))
            return false;
    }
    return true;
}

void osb_environment_free(void)
{
    osb_environment_release(base);
    base = NULL;
    base_count = 0;
}

void osb_environment_release(char **environment)
{
    for (char **entry = environment; entry && *entry; entry++)
        free(*entry);
    free(environment);
}

const char *osb_environment_get(const char *name)
{
    return find(base, base_count, name, strlen(name));
}

char **osb_environment_merge(const json_t *extra)
{
    char **merged = calloc(base_count + json_object_size(extra) + 1, sizeof *merged);
    size_t count = 0;
    if (!merged)
        return NULL;
    for (size_t i = 0; i < base_count; i++) {
        char name[256];
        size_t len = strcspn(base[i], "=");
        if (extra && len < sizeof name) {
            memcpy(name, base[i], len);
            name[len] = '\0';
            if (json_object_get(extra, name))
                continue;
        }
        if (!(merged[count++] = strdup(base[i])))
            goto failed;
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)extra, name, value)
    {
        if (asprintf(&merged[count], "%s=%s", name, json_string_value(value)) < 0) {
            merged[count] = NULL;
            goto failed;
        }
        count++;
    }
    return merged;
failed:
    osb_environment_release(merged);
    return NULL;
}

char *osb_environment_find_program(const char *name)
{
    for (const char *at = osb_environment_get("PATH"); at && *at;) {
        size_t len = strcspn(at, ":");
        char *path = NULL;
        if (len > 0 && asprintf(&path, "%.*s/%s", (int)len, at, name) >= 0) {
            struct stat info;
            if (stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0)
                return path;
            free(path);
        }
        at += len;
        if (*at == ':')
            at++;
    }
    return NULL;
}

/* ---- paths ---- */

/* What follows a '$': the name (`name`, `len`) and how many characters it took. The rules are those of Go's os.Expand.
 */
static size_t variable_at(const char *text, const char **name, size_t *len)
{
    static const char special[] = "*#$@!?-0123456789";
    *name = text;
    *len = 0;
    if (*text == '{') {
        const char *end = strchr(text, '}');
        if (!end)
            return 1;
        *name = text + 1;
        *len = (size_t)(end - text - 1);
        return *len + 2;
    }
    if (*text && strchr(special, *text)) {
        *len = 1;
        return 1;
    }
    while (isalnum((unsigned char)text[*len]) || text[*len] == '_')
        ++*len;
    return *len;
}

static bool is_identifier(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!(isalpha((unsigned char)name[i]) || name[i] == '_' || (i > 0 && isdigit((unsigned char)name[i]))))
            return false;
    }
    return len > 0;
}

static const char *look_up(const json_t *extra, const char *name, size_t len)
{
    json_t *value = extra ? json_object_getn(extra, name, len) : NULL;
    return value ? json_string_value(value) : find(base, base_count, name, len);
}

/* Appends ",NAME" to the list of unknown variables unless it is there. */
static void note_missing(char list[OSB_PATH_ERROR_SIZE / 2], const char *name, size_t len)
{
    size_t used = strlen(list);
    for (const char *at = list; *at;) {
        size_t item = strcspn(at, ",");
        if (item == len && memcmp(at, name, len) == 0)
            return;
        at += item + (at[item] == ',');
    }
    snprintf(list + used, OSB_PATH_ERROR_SIZE / 2 - used, "%s%.*s", used ? "," : "", (int)len, name);
}

char *osb_path_expand(const char *path, const json_t *extra, char error[OSB_PATH_ERROR_SIZE])
{
    struct osb_buf out = {0};
    char missing[OSB_PATH_ERROR_SIZE / 2] = "";
    bool room = true;
    for (const char *at = path; *at && room;) {
        if (*at != '$') {
            room = osb_buf_append_byte(&out, *at++);
            continue;
        }
        const char *name;
        size_t len, taken = variable_at(++at, &name, &len);
        const char *value = len > 0 ? look_up(extra, name, len) : NULL;
        if (taken == 0)
            room = osb_buf_append_byte(&out, '$');
        else if (value)
            room = osb_buf_append_str(&out, value);
        else if (is_identifier(name, len))
            note_missing(missing, name, len);
        at += taken;
    }
    room = room && osb_buf_append_byte(&out, '\0');
    char *expanded = NULL;
    if (missing[0]) {
        snprintf(error, OSB_PATH_ERROR_SIZE, "path references undefined environment variables: %s", missing);
    } else if (!room) {
        snprintf(error, OSB_PATH_ERROR_SIZE, "out of memory");
    } else {
        const char *text = osb_buf_data(&out);
        const char *home = osb_environment_get("HOME");
        if (text[0] == '~' && (text[1] == '/' || text[1] == '\0')) {
            if (asprintf(&expanded, "%s%s", home, text + 1) < 0)
                expanded = NULL;
        } else {
            expanded = strdup(text);
        }
        if (!expanded)
            snprintf(error, OSB_PATH_ERROR_SIZE, "out of memory");
    }
    osb_buf_free(&out);
    return expanded;
}

/* Removes "." and ".." and doubled slashes of an absolute path, in place. */
static void clean_absolute(char *path)
{
    char *out = path, *at = path;
    while (*at) {
        at += strspn(at, "/");
        size_t len = strcspn(at, "/");
        if (len == 2 && at[0] == '.' && at[1] == '.') {
            while (out > path && *--out != '/')
                ;
        } else if (len > 0 && !(len == 1 && at[0] == '.')) {
            *out++ = '/';
            memmove(out, at, len);
            out += len;
        }
        at += len;
    }
    if (out == path)
        *out++ = '/';
    *out = '\0';
}

char *osb_path_expand_absolute(const char *path, char error[OSB_PATH_ERROR_SIZE])
{
    char *expanded = osb_path_expand(path, NULL, error);
    if (expanded && expanded[0] != '/') {
        char *joined = NULL, *cwd = getcwd(NULL, 0);
        if (!cwd || asprintf(&joined, "%s/%s", cwd, expanded) < 0) {
            snprintf(error, OSB_PATH_ERROR_SIZE, "getwd: %s", strerror(errno));
            joined = NULL;
        }
        free(cwd);
        free(expanded);
        expanded = joined;
    }
    if (expanded)
        clean_absolute(expanded);
    return expanded;
}

size_t osb_path_directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
}

int osb_path_make_directories(const char *path, unsigned int mode)
{
    if (mkdir(path, mode) == 0)
        return 0;
    if (errno == EEXIST) {
        struct stat info;
        if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
            return 0;
        errno = ENOTDIR;
        return -1;
    }
    size_t parent_len = osb_path_directory_length(path);
    if (errno != ENOENT || parent_len == 0 || parent_len >= strlen(path))
        return -1;
    char *parent = strndup(path, parent_len);
    int made = parent ? osb_path_make_directories(parent, mode) : -1;
    free(parent);
    return made < 0 || (mkdir(path, mode) < 0 && errno != EEXIST) ? -1 : 0;
}

const char *osb_path_check_directory(const char *path, char error[OSB_PATH_ERROR_SIZE])
{
    if (!*path)
        return NULL;
    char reason[OSB_PATH_ERROR_SIZE];
    char *expanded = osb_path_expand(path, NULL, reason);
    struct stat info;
    if (!expanded)
        snprintf(error, OSB_PATH_ERROR_SIZE, "cannot resolve working directory \"%.200s\": %.200s", path, reason);
    else if (stat(expanded, &info) < 0 && errno == ENOENT)
        snprintf(error, OSB_PATH_ERROR_SIZE,
                 "working directory does not exist: %.200s: stat %.200s: no such file or directory", path, expanded);
    else if (stat(expanded, &info) < 0)
        snprintf(error, OSB_PATH_ERROR_SIZE, "cannot access working directory \"%.200s\": %s", path, strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        snprintf(error, OSB_PATH_ERROR_SIZE, "working directory path is not a directory: %.300s", path);
    else
        error = NULL;
    free(expanded);
    return error;
}
