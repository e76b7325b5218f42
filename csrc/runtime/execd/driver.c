#include "driver.h"

#include <string.h>

#include "drivers.h"
#include "environment.h"

static const char *const python[] = {"python3", "python", NULL};
static const char *const node[] = {"node", "nodejs", NULL};
static const char *const bash[] = {"bash", NULL};
static const char *const lua[] = {"lua5.4", "lua5.3", "lua", "lua5.2", "lua5.1", NULL};

static const char *const python_arguments[] = {"-c", "exec(open(9, encoding='utf-8').read())", NULL};
static const char *const node_arguments[] = {"-e", "eval(require('fs').readFileSync(9, 'utf8'))", NULL};
/* interactive: SIGINT ends what it runs and nothing more */
static const char *const bash_arguments[] = {"--noprofile", "--rcfile", "/proc/self/fd/9", "--noediting", "-i", NULL};
static const char *const lua_arguments[] = {"/proc/self/fd/9", NULL};

static const struct osb_driver drivers[] = {
    {"python", python, python_arguments, "python3", osb_driver_python, &osb_driver_python_size, false, false},
    {"javascript", node, node_arguments, "nodejs", osb_driver_javascript, &osb_driver_javascript_size, false, false},
    {"bash", bash, bash_arguments, "bash", osb_driver_bash, &osb_driver_bash_size, true, false},
    {"lua", lua, lua_arguments, "lua5.4", osb_driver_lua, &osb_driver_lua_size, false, true},
};

const struct osb_driver *osb_driver_find(const char *language)
{
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++) {
        if (strcmp(drivers[i].language, language) == 0)
            return &drivers[i];
    }
    return NULL;
}

char *osb_driver_program(const struct osb_driver *driver, const char **name)
{
    char *program = NULL;
    for (const char *const *at = driver->programs; *at && !program; at++) {
        program = osb_environment_find_program(*at);
        *name = *at;
    }
    return program;
}

bool osb_driver_request(const struct osb_driver *driver, unsigned int number, const char *code, size_t len,
                        struct osb_buf *out)
{
    if (!driver->shell)
        return osb_buf_printf(out, "%zu\n", len) && osb_buf_append(out, code, len);
    /* the second command comes also when the first is interrupted */
    if (!osb_buf_append_str(out, "__opensandbox_run '"))
        return false;
    for (const char *at = code, *end = code + len; at < end;) {
        const char *quote = memchr(at, '\'', (size_t)(end - at));
        size_t plain = (size_t)((quote ? quote : end) - at);
        if (!osb_buf_append(out, at, plain) || (quote && !osb_buf_append_str(out, "'\\''")))
            return false;
        at += plain + (quote != NULL);
    }
    return osb_buf_printf(out, "'\n__opensandbox_done %u \"$?\"\n", number);
}

bool osb_driver_after_interrupt(const struct osb_driver *driver, unsigned int number, struct osb_buf *out)
{
    /* the shell may have been interrupted just when it was to tell the end */
    return !driver->shell || osb_buf_printf(out, "__opensandbox_done %u 130\n", number);
}
