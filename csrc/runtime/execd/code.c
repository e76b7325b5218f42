/* Code contexts: POST /code, /code/context and /code/contexts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "code_context.h"
#include "environment.h"
#include "file_job.h"
#include "input.h"
#include "runtime/shared/text.h"

#define MAX_CONTEXTS 256

static struct osb_code_context **find_context(struct osb_execd *execd, const char *id)
{
    struct osb_code_context **slot = &execd->code_contexts;
    while (*slot && strcmp((*slot)->id, id) != 0)
        slot = &(*slot)->next;
    return slot;
}

static struct osb_code_context *find_default(struct osb_execd *execd, const char *language)
{
    struct osb_code_context *context = execd->code_contexts;
    while (context && !(context->is_default && strcmp(context->driver->language, language) == 0))
        context = context->next;
    return context;
}

/* Takes the context at *slot out and frees it. */
static void context_remove(struct osb_code_context **slot, bool cut)
{
    struct osb_code_context *context = *slot;
    *slot = context->next;
    osb_code_end(context, cut);
    free(context->cwd);
    free(context);
}

/* The driver of a language whose interpreter is installed; else answers with 501 (`what`: failed) and returns NULL. */
static const struct osb_driver *choose_driver(struct osb_http_request *request, const char *what, const char *language)
{
    const struct osb_driver *driver = osb_driver_find(language);
    const char *name;
    if (!driver) {
        osb_http_reply_error(request, 501, OSB_NOT_SUPPORTED,
                             "error %s. unknown language: %s; this server runs python, javascript, bash and lua", what,
                             language);
        return NULL;
    }
    char *program = osb_driver_program(driver, &name);
    if (!program)
        osb_http_reply_error(
            request, 501, OSB_NOT_SUPPORTED,
            "error %s. %s is not installed in this sandbox: install the program %s (Debian package %s)", what, language,
            driver->programs[0], driver->package);
    bool installed = program != NULL;
    free(program);
    return installed ? driver : NULL;
}

/* Makes a context and starts its interpreter; NULL with a sentence in `error`. */
static struct osb_code_context *context_new(struct osb_execd *execd, const struct osb_driver *driver, const char *cwd,
                                            char error[OSB_PATH_ERROR_SIZE])
{
    struct osb_code_context *context = calloc(1, sizeof *context);
    size_t count = 0;
    for (const struct osb_code_context *at = execd->code_contexts; at; at = at->next)
        count++;
    if (!context) {
        snprintf(error, OSB_PATH_ERROR_SIZE, "out of memory");
        return NULL;
    }
    context->execd = execd;
    context->driver = driver;
    osb_random_hex(context->id, 32);
    bool made = false;
    if (count >= MAX_CONTEXTS) {
        snprintf(error, OSB_PATH_ERROR_SIZE, "there are %d contexts already", MAX_CONTEXTS);
    } else if (!*cwd) {
        made = true;
    } else if ((context->cwd = osb_path_expand_absolute(cwd, error))) {
        made = osb_path_make_directories(context->cwd, 0777) == 0;
        if (!made)
            snprintf(error, OSB_PATH_ERROR_SIZE, "mkdir %.300s: %s", context->cwd, osb_file_reason(errno));
    }
    if (!made || !osb_code_start(context, error)) {
        free(context->cwd);
        free(context);
        return NULL;
    }
    struct osb_code_context **end = &execd->code_contexts;
    while (*end)
        end = &(*end)->next;
    *end = context;
    return context;
}

void osb_code_create(struct osb_http_request *request, void *data)
{
    struct osb_execd *execd = data;
    char error[OSB_PATH_ERROR_SIZE];
    const char *language, *cwd;
    json_t *input = osb_input_object(request, error);
    if (!input || !osb_input_string(input, "language", &language, error) ||
        !osb_input_string(input, "cwd", &cwd, error)) {
        json_decref(input);
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error);
        return;
    }
    const struct osb_driver *driver = choose_driver(request, "creating code context", language);
    if (driver) {
        const struct osb_code_context *context = context_new(execd, driver, cwd, error);
        if (!context) {
            osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error creating code context. %s", error);
        } else {
            json_t *answer = json_pack("{s:s, s:s}", "id", context->id, "language", language);
            if (answer && *cwd)
                json_object_set_new(answer, "cwd", json_string(cwd));
            osb_http_reply_json(request, 200, answer);
        }
    }
    json_decref(input);
}

static json_t *describe(const struct osb_code_context *context)
{
    return json_pack("{s:s, s:s}", "id", context->id, "language", context->driver->language);
}

void osb_code_list(struct osb_http_request *request, void *data)
{
    const struct osb_execd *execd = data;
    const char *language = osb_http_request_query(request, "language");
    json_t *list = json_array();
    for (const struct osb_code_context *context = execd->code_contexts; context; context = context->next) {
        if (!language || !*language || strcmp(language, context->driver->language) == 0)
            json_array_append_new(list, describe(context));
    }
    osb_http_reply_json(request, 200, list);
}

void osb_code_get(struct osb_http_request *request, void *data)
{
    const char *id = osb_http_request_param(request, 0);
    const struct osb_code_context *context = *find_context(data, id);
    if (context)
        osb_http_reply_json(request, 200, describe(context));
    else
        osb_http_reply_error(request, 404, OSB_CONTEXT_NOT_FOUND, "context %s not found", id);
}

void osb_code_delete(struct osb_http_request *request, void *data)
{
    const char *id = osb_http_request_param(request, 0);
    struct osb_code_context **slot = find_context(data, id);
    if (!*slot) {
        osb_http_reply_error(request, 404, OSB_CONTEXT_NOT_FOUND, "context %s not found", id);
        return;
    }
    context_remove(slot, false);
    osb_http_reply_empty(request, 200);
}

void osb_code_delete_language(struct osb_http_request *request, void *data)
{
    struct osb_execd *execd = data;
    const char *language = osb_http_request_query(request, "language");
    if (!language || !*language) {
        osb_http_reply_error(request, 400, OSB_MISSING_QUERY, "missing query parameter 'language'");
        return;
    }
    for (struct osb_code_context **slot = &execd->code_contexts; *slot;) {
        if (strcmp((*slot)->driver->language, language) == 0)
            context_remove(slot, false);
        else
            slot = &(*slot)->next;
    }
    osb_http_reply_empty(request, 200);
}

void osb_code_delete_all(struct osb_execd *execd)
{
    while (execd->code_contexts)
        context_remove(&execd->code_contexts, true);
}

bool osb_code_interrupt(struct osb_execd *execd, const char *id)
{
    const struct osb_code_context *context = *find_context(execd, id);
    if (context && context->interpreter)
        osb_interpreter_interrupt(context->interpreter);
    return context != NULL;
}

/* The context that a request names by id, or by language alone, which makes it when there is none yet; NULL: the
 * request was answered. */
static struct osb_code_context *choose_context(struct osb_execd *execd, struct osb_http_request *request,
                                               const char *id, const char *language)
{
    char error[OSB_PATH_ERROR_SIZE] = "context not found";
    struct osb_code_context *context = *id ? *find_context(execd, id) : find_default(execd, language);
    if (!context && !*id) {
        const struct osb_driver *driver = choose_driver(request, "running codes", language);
        if (!driver)
            return NULL;
        context = context_new(execd, driver, "", error);
        if (context)
            context->is_default = true;
    }
    if (!context)
        osb_http_reply_error(request, 500, OSB_RUNTIME_ERROR, "error running codes %s", error);
    return context;
}

void osb_code_run(struct osb_http_request *request, void *data)
{
    struct osb_execd *execd = data;
    char error[OSB_INPUT_ERROR_SIZE];
    const char *code, *id = "", *language = "";
    json_t *input = osb_input_object(request, error);
    const json_t *place = json_object_get(input, "context");
    bool valid = input && osb_input_string(input, "code", &code, error);
    if (valid && place && !json_is_null(place)) {
        valid = json_is_object(place) && osb_input_string(place, "id", &id, error) &&
                osb_input_string(place, "language", &language, error);
        if (!json_is_object(place))
            snprintf(error, sizeof error, "json: cannot unmarshal %s into field context of type object",
                     osb_input_type_name(place));
    }
    if (!valid) {
        osb_http_reply_error(request, 400, OSB_INVALID_REQUEST, "error parsing request, MAYBE invalid body format. %s",
                             error);
    } else if (!*code) {
        osb_http_reply_error(
            request, 400, OSB_INVALID_REQUEST,
            "invalid request, validation error Key: 'RunCodeRequest.Code' Error:Field validation for 'Code' failed on "
            "the 'required' tag");
    } else if (!*id && !*language) {
        osb_command_run_text(execd, request, code);
    } else {
        struct osb_code_context *context = choose_context(execd, request, id, language);
        if (context)
            osb_code_run_in(context, request, code, strlen(code));
    }
    json_decref(input);
}
