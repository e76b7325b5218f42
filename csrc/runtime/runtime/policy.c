#include "runtime/runtime/policy.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TARGET_MAX 255 /* bytes; names have at most 253, wildcards two more */

struct rule {
    bool allows;
    bool is_range;
    struct osb_range range;
    const char *target; /* in the JSON */
};

struct osb_policy {
    bool allows;  /* what no rule is about */
    json_t *json; /* the policy, spelled out */
    size_t count;
    struct rule rules[];
};

static void *fail(struct osb_policy_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Says what is wrong; NULL. */
static void *fail(struct osb_policy_error *error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    (void)vsnprintf(error->text, sizeof error->text, format, values);
    va_end(values);
    return NULL;
}

/* ---- reading ---- */

/* Text without blanks at its ends, as a new string; NULL when memory is out. */
static char *trim(const json_t *value)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    return strndup(text, len);
}

/* "allow" or "deny"; "deny" for what is missing or empty; else NULL with the error. */
static const char *read_action(const json_t *value, struct osb_policy_error *error)
{
    char *text = trim(value);
    const char *action = NULL;
    if (value && !json_is_string(value) && !json_is_null(value))
        fail(error, "an action is not a string");
    else if (!text)
        fail(error, "memory is out");
    else if (!*text || strcasecmp(text, "deny") == 0)
        action = "deny";
    else if (strcasecmp(text, "allow") == 0)
        action = "allow";
    else
        fail(error, "unsupported action \"%.40s\"", text);
    free(text);
    return action;
}

/* A rule as the policy keeps it; NULL with the error. */
static json_t *read_rule(const json_t *value, struct osb_policy_error *error)
{
    const json_t *given = json_object_get(value, "target");
    if (!json_is_object(value) || (given && !json_is_string(given)))
        return fail(error, "a rule is no object with the strings action and target");
    const char *action = read_action(json_object_get(value, "action"), error);
    if (!action)
        return NULL;
    char *target = trim(given);
    json_t *rule = NULL;
    if (!target || !*target)
        fail(error, "egress target cannot be empty");
    else if (strlen(target) > TARGET_MAX)
        fail(error, "egress target \"%.40s…\" is longer than %d bytes", target, TARGET_MAX);
    else if (!(rule = json_pack("{s:s, s:s}", "action", action, "target", target)))
        fail(error, "memory is out");
    free(target);
    return rule;
}

static json_t *read_rules(const json_t *rules, struct osb_policy_error *error)
{
    size_t index;
    const json_t *value;
    json_t *all = json_array();
    json_array_foreach(rules, index, value)
    {
        if (index >= OSB_POLICY_RULES) {
            error->too_many = true;
            json_decref(all);
            return fail(error, "egress rule total count %zu exceeds limit %d", json_array_size(rules),
                        OSB_POLICY_RULES);
        }
        json_t *rule = read_rule(value, error);
        if (!rule || json_array_append_new(all, rule) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

/* Takes `egress`, an array of rules as read_rule makes them. */
static struct osb_policy *make(const char *action, json_t *egress, struct osb_policy_error *error)
{
    const size_t count = json_array_size(egress);
    struct osb_policy *policy = egress ? calloc(1, sizeof *policy + count * sizeof *policy->rules) : NULL;
    if (!policy) {
        json_decref(egress);
        return fail(error, "memory is out");
    }
    policy->allows = strcmp(action, "allow") == 0;
    policy->json = json_pack("{s:s, s:o}", "defaultAction", action, "egress", egress);
    if (!policy->json) {
        free(policy);
        return fail(error, "memory is out");
    }
    for (; policy->count < count; policy->count++) {
        const json_t *source = json_array_get(egress, policy->count);
        struct rule *rule = &policy->rules[policy->count];
        rule->target = json_string_value(json_object_get(source, "target"));
        rule->allows = strcmp(json_string_value(json_object_get(source, "action")), "allow") == 0;
        rule->is_range = osb_range_parse(rule->target, &rule->range);
    }
    return policy;
}

struct osb_policy *osb_policy_new(bool allow)
{
    struct osb_policy_error error;
    return make(allow ? "allow" : "deny", json_array(), &error);
}

void osb_policy_free(struct osb_policy *policy)
{
    if (!policy)
        return;
    json_decref(policy->json);
    free(policy);
}

struct osb_policy *osb_policy_parse(const json_t *policy, struct osb_policy_error *error)
{
    *error = (struct osb_policy_error){.text = "memory is out"};
    const json_t *rules = json_object_get(policy, "egress");
    if (!json_is_object(policy))
        return fail(error, "it is no object");
    if (rules && !json_is_array(rules) && !json_is_null(rules))
        return fail(error, "egress is no list");
    const char *action = read_action(json_object_get(policy, "defaultAction"), error);
    json_t *egress = action ? read_rules(rules, error) : NULL;
    return egress ? make(action, egress, error) : NULL;
}

/* ---- changing ---- */

/* A target as it is compared with others; false when it is longer than any can be. */
static bool fold(const char *target, char *out, size_t size)
{
    const size_t len = strlen(target);
    for (size_t i = 0; i <= len && i < size; i++)
        out[i] = (char)tolower((unsigned char)target[i]);
    return len < size;
}

/* Appends the rules whose target is not among `seen`, to which they are added. */
static bool append_new(json_t *all, const json_t *rules, json_t *seen)
{
    size_t index;
    json_t *rule;
    json_array_foreach(rules, index, rule)
    {
        char key[TARGET_MAX + 1];
        if (!fold(json_string_value(json_object_get(rule, "target")), key, sizeof key) || json_object_get(seen, key))
            continue;
        if (json_object_set_new(seen, key, json_true()) != 0 || json_array_append(all, rule) != 0)
            return false;
    }
    return true;
}

static const char *default_action(const struct osb_policy *policy)
{
    return policy->allows ? "allow" : "deny";
}

struct osb_policy *osb_policy_patch(const struct osb_policy *policy, const json_t *rules,
                                    struct osb_policy_error *error)
{
    *error = (struct osb_policy_error){.text = "memory is out"};
    json_t *additions = read_rules(rules, error);
    json_t *all = json_array();
    json_t *seen = json_object();
    struct osb_policy *patched = NULL;
    if (additions && all && seen && append_new(all, additions, seen) &&
        append_new(all, json_object_get(policy->json, "egress"), seen)) {
        error->too_many = json_array_size(all) > OSB_POLICY_RULES;
        if (error->too_many)
            fail(error, "egress rule total count %zu exceeds limit %d", json_array_size(all), OSB_POLICY_RULES);
        else
            patched = make(default_action(policy), json_incref(all), error);
    }
    json_decref(additions);
    json_decref(all);
    json_decref(seen);
    return patched;
}

struct osb_policy *osb_policy_remove(const struct osb_policy *policy, const json_t *targets, size_t *removed,
                                     struct osb_policy_error *error)
{
    *error = (struct osb_policy_error){.text = "memory is out"};
    json_t *gone = json_object();
    json_t *kept = json_array();
    bool fits = gone && kept;
    size_t index;
    json_t *item;
    json_array_foreach(targets, index, item)
    {
        char key[TARGET_MAX + 1];
        char *target = trim(item);
        fits = fits && target && (!fold(target, key, sizeof key) || json_object_set_new(gone, key, json_true()) == 0);
        free(target);
    }
    *removed = 0;
    json_array_foreach(json_object_get(policy->json, "egress"), index, item)
    {
        char key[TARGET_MAX + 1];
        const bool goes =
            fold(json_string_value(json_object_get(item, "target")), key, sizeof key) && json_object_get(gone, key);
        *removed += goes;
        fits = fits && (goes || json_array_append(kept, item) == 0);
    }
    json_decref(gone);
    if (fits)
        return make(default_action(policy), kept, error);
    json_decref(kept);
    return NULL;
}

/* ---- telling ---- */

json_t *osb_policy_json(const struct osb_policy *policy)
{
    return json_incref(policy->json);
}

const char *osb_policy_mode(const struct osb_policy *policy)
{
    if (policy->count > 0)
        return "enforcing";
    return policy->allows ? "allow_all" : "deny_all";
}

/* "*.example.com" is for what is below example.com, not for itself. */
static bool matches(const char *target, const char *name, size_t len)
{
    const size_t size = strlen(target);
    if (strncmp(target, "*.", 2) != 0)
        return size == len && strncasecmp(target, name, len) == 0;
    return len > size - 1 && strncasecmp(target + 1, name + len - (size - 1), size - 1) == 0;
}

bool osb_policy_allows_name(const struct osb_policy *policy, const char *name)
{
    struct osb_range address;
    if (osb_range_parse(name, &address))
        return true;
    const size_t len = strlen(name);
    for (size_t i = 0; i < policy->count; i++) {
        const struct rule *rule = &policy->rules[i];
        if (!rule->is_range && matches(rule->target, name, len))
            return rule->allows;
    }
    return policy->allows;
}

bool osb_policy_allows_address(const struct osb_policy *policy, const union osb_address *address, bool by_name)
{
    bool allowed = policy->allows || by_name;
    for (size_t i = 0; i < policy->count; i++) {
        const struct rule *rule = &policy->rules[i];
        if (!rule->is_range || !osb_range_has(&rule->range, address))
            continue;
        if (!rule->allows)
            return false;
        allowed = true;
    }
    return allowed;
}
