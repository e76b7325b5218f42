#include "runtime/runtime/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/runtime/path.h"
#include "runtime/runtime/rules.h"
#include "runtime/shared/text.h"

bool osb_json_save(int dir, const char *name, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);
    char fresh[256];
    if (!text || snprintf(fresh, sizeof fresh, ".new-%s", name) >= (int)sizeof fresh) {
        free(text);
        errno = ENOMEM;
        return false;
    }
    (void)unlinkat(dir, fresh, 0); /* of a writer that died */
    bool saved = osb_path_write_file(dir, fresh, text, strlen(text), 0600) && renameat(dir, fresh, dir, name) == 0;
    free(text);
    return saved;
}

json_t *osb_json_load(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    json_t *value = json_loadfd(fd, 0, NULL);
    close(fd);
    if (json_is_object(value))
        return value;
    json_decref(value);
    return NULL;
}

json_t *osb_json_time(const struct timespec *time)
{
    char text[OSB_TIME_SIZE];
    const struct timespec rounded = {.tv_sec = time->tv_sec, .tv_nsec = time->tv_nsec / 1000 * 1000};
    osb_time_format(&rounded, text);
    return json_string(text);
}

bool osb_json_read_time(const json_t *object, const char *name, struct timespec *time)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text && osb_rules_parse_time(text, time);
}

void osb_json_read_text(const json_t *object, const char *name, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(out, size, "%s", text && strlen(text) < size ? text : "");
}
