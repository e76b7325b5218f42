#include "runtime/runtime/create.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "runtime/runtime/api.h"
#include "runtime/runtime/rules.h"
#include "runtime/runtime/snapshot.h"

#define LONGEST_TIMEOUT ((json_int_t)10 * 366 * 86400)
#define LEAST_RENEWAL 300 /* seconds */
#define MOST_RENEWAL 86400
#define MOST_STRINGS 2048
#define CODE_INTERPRETER "opensandbox/code-interpreter"

void osb_reply_unprocessable(struct osb_http_request *request, const char *part, const char *field, const char *kind,
                             const char *message)
{
    osb_http_reply_json(
        request, 422,
        json_pack("{s:[{s:s, s:[s, s*], s:s}]}", "detail", "type", kind, "loc", part, field, "msg", message));
}

static bool refuse(struct osb_http_request *request, const char *code, const char *message)
{
    osb_http_reply_error(request, 400, code, "%s", message);
    return false;
}

static bool unprocessable(struct osb_http_request *request, const char *place, const char *kind, const char *message)
{
    osb_reply_unprocessable(request, "body", place, kind, message);
    return false;
}

/* A field; NULL when absent or null. */
static json_t *value_of(const json_t *body, const char *name)
{
    json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

/* A string without NUL bytes. */
static bool is_text(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static bool is_text_object(const json_t *value, bool nulls)
{
    const char *key;
    const json_t *item;
    if (!json_is_object(value) || json_object_size(value) > MOST_STRINGS)
        return false;
    json_object_foreach((json_t *)value, key, item)
    {
        if (!is_text(item) && !(nulls && json_is_null(item)))
            return false;
    }
    return true;
}

static bool is_text_array(const json_t *value)
{
    size_t index;
    const json_t *item;
    if (!json_is_array(value) || json_array_size(value) > MOST_STRINGS)
        return false;
    json_array_foreach(value, index, item)
    {
        if (!is_text(item))
            return false;
    }
    return true;
}

/* ---- shapes: 422 ---- */

static bool check_shapes(struct osb_http_request *request, const json_t *body)
{
    static const char *const objects[] = {"resourceLimits", "metadata", "extensions", NULL};
    for (size_t i = 0; objects[i]; i++) {
        const json_t *value = value_of(body, objects[i]);
        if (value && !is_text_object(value, false))
            return unprocessable(request, objects[i], "dict_type", "Input should be an object of strings");
    }
    const json_t *env = value_of(body, "env");
    if (env && !is_text_object(env, true))
        return unprocessable(request, "env", "dict_type", "Input should be an object of strings");
    const json_t *image = value_of(body, "image");
    if (image && !is_text(json_object_get(image, "uri")))
        return unprocessable(request, "image", "missing", "Input should be an object with a string uri");
    const json_t *snapshot = value_of(body, "snapshotId");
    if (snapshot && !json_is_string(snapshot))
        return unprocessable(request, "snapshotId", "string_type", "Input should be a valid string");
    const json_t *timeout = value_of(body, "timeout");
    if (timeout && !json_is_integer(timeout))
        return unprocessable(request, "timeout", "int_type", "Input should be a valid integer");
    if (timeout && json_integer_value(timeout) < 1)
        return unprocessable(request, "timeout", "greater_than_equal", "Input should be greater than or equal to 1");
    const json_t *entrypoint = value_of(body, "entrypoint");
    if (entrypoint && (!is_text_array(entrypoint) || json_array_size(entrypoint) == 0))
        return unprocessable(request, "entrypoint", "list_type", "Input should be a list of strings, at least one");
    const json_t *volumes = value_of(body, "volumes");
    if (volumes && !json_is_array(volumes))
        return unprocessable(request, "volumes", "list_type", "Input should be a valid list");
    const json_t *secure = value_of(body, "secureAccess");
    if (secure && !json_is_boolean(secure))
        return unprocessable(request, "secureAccess", "bool_type", "Input should be a valid boolean");
    const json_t *platform = value_of(body, "platform");
    if (platform &&
        (!json_is_string(json_object_get(platform, "os")) || !json_is_string(json_object_get(platform, "arch"))))
        return unprocessable(request, "platform", "missing", "Input should be an object with the strings os and arch");
    return true;
}

static bool is_blank(const char *text)
{
    return !text || text[strspn(text, " \t\r\n")] == '\0';
}

static bool check_source(struct osb_http_request *request, const json_t *body)
{
    const bool has_image = !is_blank(json_string_value(json_object_get(value_of(body, "image"), "uri")));
    const bool has_snapshot = !is_blank(json_string_value(value_of(body, "snapshotId")));
    if (has_image == has_snapshot)
        return unprocessable(request, "image", "value_error",
                             "Value error, Exactly one of image or snapshotId must be provided.");
    if (has_image && !value_of(body, "entrypoint"))
        return unprocessable(request, "entrypoint", "value_error",
                             "Value error, Entrypoint is required when image is provided.");
    if (!value_of(body, "resourceLimits"))
        return unprocessable(request, "resourceLimits", "value_error",
                             "Value error, resourceLimits is required when poolRef is not provided.");
    return true;
}

/* ---- meanings: 400 ---- */

/* The name without registry and tag is that of the code interpreter's image. */
static bool is_code_interpreter(const char *name)
{
    const char *found = strstr(name, CODE_INTERPRETER);
    if (!found || (found != name && found[-1] != '/'))
        return false;
    const char end = found[strlen(CODE_INTERPRETER)];
    return end == '\0' || end == ':' || end == '@';
}

static bool check_image(const struct osb_runtime *runtime, struct osb_http_request *request, const json_t *body)
{
    const char *name = json_string_value(json_object_get(value_of(body, "image"), "uri"));
    if (!name)
        return true; /* that of a snapshot */
    bool known = strcmp(name, "host") == 0 || is_code_interpreter(name);
    for (size_t i = 0; i < runtime->alias_count && !known; i++)
        known = strcmp(name, runtime->aliases[i]) == 0;
    if (known)
        return true;
    struct osb_buf names = {0};
    bool fits = osb_buf_append_str(&names, "host, " CODE_INTERPRETER);
    for (size_t i = 0; i < runtime->alias_count && fits; i++)
        fits = osb_buf_printf(&names, ", %s", runtime->aliases[i]);
    osb_http_reply_error(request, 400, "SANDBOX::INVALID_PARAMETER",
                         "There is no image '%.200s' here. This runtime has: %.*s. Each stands for the machine's own "
                         "programs; --alias NAME=host adds a name.",
                         name, (int)names.len, osb_buf_data(&names));
    osb_buf_free(&names);
    return false;
}

/* Takes what a snapshot brings along. */
static bool read_snapshot(const struct osb_runtime *runtime, struct osb_http_request *request, const char *id,
                          struct osb_sandbox_spec *spec)
{
    if (!id || spec->image)
        return true;
    const struct osb_snapshot *snapshot = osb_snapshot_find(runtime, id);
    if (!snapshot) {
        osb_http_reply_error(request, 404, "SNAPSHOT::NOT_FOUND", "Snapshot %.100s not found", id);
        return false;
    }
    if (snapshot->state != OSB_SNAPSHOT_READY) {
        osb_http_reply_error(request, 409, "SNAPSHOT::NOT_READY", "Snapshot %s is not ready for restore.", id);
        return false;
    }
    spec->snapshot = snapshot;
    spec->image = snapshot->image;
    if (!spec->entrypoint)
        spec->entrypoint = snapshot->entrypoint;
    return true;
}

/* How far use puts the expiry off. */
static bool read_renewal(struct osb_http_request *request, const char *value, struct osb_sandbox_spec *spec)
{
    spec->renew_seconds = osb_api_number(value, MOST_RENEWAL);
    if (spec->renew_seconds >= LEAST_RENEWAL)
        return true;
    osb_http_reply_error(request, 400, "SANDBOX::INVALID_PARAMETER",
                         "extensions[\"access.renew.extend.seconds\"] is a whole number from %d to %d.", LEAST_RENEWAL,
                         MOST_RENEWAL);
    return false;
}

static bool check_platform(struct osb_http_request *request, const json_t *platform)
{
    struct utsname machine;
    if (!platform || uname(&machine) != 0)
        return true;
    const char *arch = json_string_value(json_object_get(platform, "arch"));
    const char *own = strcmp(machine.machine, "x86_64") == 0    ? "amd64"
                      : strcmp(machine.machine, "aarch64") == 0 ? "arm64"
                                                                : machine.machine;
    if (strcmp(json_string_value(json_object_get(platform, "os")), "linux") == 0 && strcmp(arch, own) == 0)
        return true;
    osb_http_reply_error(request, 400, "SANDBOX::INVALID_PARAMETER", "This runtime's only platform is linux/%s.", own);
    return false;
}

static bool check_policy(struct osb_http_request *request, const struct osb_sandbox_spec *spec)
{
    struct osb_policy_error error;
    if (!spec->policy)
        return true;
    struct osb_policy *policy = osb_policy_parse(spec->policy, &error);
    osb_policy_free(policy);
    if (!policy) {
        char message[sizeof error.text + 64];
        snprintf(message, sizeof message, "Input should be a network policy: %s", error.text);
        return unprocessable(request, "networkPolicy", "value_error", message);
    }
    if (spec->network == OSB_NETWORK_PROXY)
        return true;
    return refuse(request, "SANDBOX::INVALID_PARAMETER",
                  "A networkPolicy needs extensions[\"runtime.network\"] to be \"proxy\", which is the default: with "
                  "\"none\" nothing goes out, with \"host\" everything does.");
}

static bool read_network(const char *name, enum osb_network_mode *mode)
{
    static const char *const names[] = {
        [OSB_NETWORK_PROXY] = "proxy", [OSB_NETWORK_NONE] = "none", [OSB_NETWORK_HOST] = "host"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *mode = (enum osb_network_mode)i;
            return true;
        }
    }
    return false;
}

static bool check_extensions(const struct osb_runtime *runtime, struct osb_http_request *request,
                             const json_t *extensions, struct osb_sandbox_spec *spec)
{
    const char *name;
    const json_t *item;
    json_object_foreach((json_t *)extensions, name, item)
    {
        const char *value = json_string_value(item);
        if (strcmp(name, "poolRef") == 0 && !is_blank(value))
            return refuse(request, "SANDBOX::UNSUPPORTED_POOL_REF", "This runtime has no pools (extensions.poolRef).");
        if (strcmp(name, "access.renew.extend.seconds") == 0 && !read_renewal(request, value, spec))
            return false;
        if (strcmp(name, "runtime.network") == 0) {
            if (!read_network(value, &spec->network))
                return refuse(request, "SANDBOX::INVALID_PARAMETER",
                              "extensions[\"runtime.network\"] is \"proxy\", \"none\" or \"host\".");
            if (spec->network == OSB_NETWORK_HOST && !runtime->allow_host_network)
                return refuse(request, "SANDBOX::INVALID_PARAMETER",
                              "This runtime does not give sandboxes the machine's network; it was started without "
                              "--allow-host-network.");
        } else if (strncmp(name, "runtime.", strlen("runtime.")) == 0) {
            osb_http_reply_error(request, 400, "SANDBOX::INVALID_PARAMETER",
                                 "This runtime knows no extensions[\"%.100s\"]; there is: runtime.network.", name);
            return false;
        }
    }
    return true;
}

static bool check_env(struct osb_http_request *request, const json_t *env)
{
    const char *name;
    const json_t *value; /* what json_object_foreach needs */
    json_object_foreach((json_t *)env, name, value)
    {
        if (!*name || strchr(name, '='))
            return refuse(request, "SANDBOX::INVALID_PARAMETER",
                          "The name of an environment variable is empty or has a '='.");
    }
    return true;
}

static bool check_unsupported(struct osb_http_request *request, const json_t *body)
{
    if (json_is_true(json_object_get(value_of(body, "credentialProxy"), "enabled")))
        return refuse(request, "SANDBOX::API_NOT_SUPPORTED", "This runtime has no credential proxy.");
    if (json_is_true(value_of(body, "secureAccess")))
        return refuse(
            request, "SANDBOX::INVALID_PARAMETER",
            "This runtime has no gateway, so secureAccess is not supported; endpoints are guarded by the token "
            "in their headers.");
    if (value_of(body, "image") && value_of(value_of(body, "image"), "auth"))
        return refuse(request, "SANDBOX::INVALID_PARAMETER", "This runtime pulls no images, so image.auth has no use.");
    return true;
}

/* The customary way to wait for ever; execd does that anyway. */
static bool only_waits(const json_t *entrypoint)
{
    static const char *const words[] = {"tail", "-f", "/dev/null"};
    static const char *const other[] = {"sleep", "infinity"};
    const size_t count = json_array_size(entrypoint);
    bool first = count == 3;
    bool second = count == 2;
    for (size_t i = 0; i < count && (first || second); i++) {
        const char *word = json_string_value(json_array_get(entrypoint, i));
        first = first && strcmp(word, words[i]) == 0;
        second = second && strcmp(word, other[i]) == 0;
    }
    return first || second;
}

bool osb_create_read(const struct osb_runtime *runtime, struct osb_http_request *request, const json_t *body,
                     struct osb_sandbox_spec *spec)
{
    *spec = (struct osb_sandbox_spec){.image = value_of(body, "image"),
                                      .platform = value_of(body, "platform"),
                                      .env = value_of(body, "env"),
                                      .metadata = value_of(body, "metadata"),
                                      .entrypoint = value_of(body, "entrypoint"),
                                      .policy = value_of(body, "networkPolicy")};
    struct osb_rule_error error;
    if (!check_shapes(request, body) || !check_extensions(runtime, request, value_of(body, "extensions"), spec) ||
        !check_source(request, body) || !check_unsupported(request, body) || !check_image(runtime, request, body) ||
        !read_snapshot(runtime, request, json_string_value(value_of(body, "snapshotId")), spec) ||
        !check_platform(request, spec->platform) || !check_env(request, spec->env) || !check_policy(request, spec))
        return false;
    if (!osb_rules_check_metadata(spec->metadata, &error))
        return refuse(request, error.code, error.message);
    spec->timeout = json_integer_value(value_of(body, "timeout"));
    if (spec->timeout > LONGEST_TIMEOUT)
        return refuse(request, "SANDBOX::INVALID_PARAMETER", "The timeout is longer than ten years.");
    if (!only_waits(spec->entrypoint))
        spec->command = spec->entrypoint;
    if (!osb_limits_read(&spec->limits, value_of(body, "resourceLimits"), &error))
        return refuse(request, error.code, error.message);
    if (osb_volumes_open(&spec->volumes, value_of(body, "volumes"), &runtime->allowed_paths, &runtime->state, &error))
        return true;
    return error.code ? refuse(request, error.code, error.message)
                      : unprocessable(request, "volumes", "value_error", error.message);
}
