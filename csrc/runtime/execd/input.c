#include "input.h"

#include <stdio.h>
#include <string.h>

const char *osb_input_type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "bool";
    default:
        return "null";
    }
}

json_t *osb_input_object(const struct osb_http_request *request, char error[OSB_INPUT_ERROR_SIZE])
{
    json_error_t reason;
    json_t *value = osb_http_request_json(request, &reason);
    if (!value) {
        snprintf(error, OSB_INPUT_ERROR_SIZE, "%s", reason.text);
        return NULL;
    }
    if (json_is_null(value)) {
        json_decref(value);
        return json_object();
    }
    if (!json_is_object(value)) {
        snprintf(error, OSB_INPUT_ERROR_SIZE, "json: cannot unmarshal %s, an object is expected",
                 osb_input_type_name(value));
        json_decref(value);
        return NULL;
    }
    return value;
}

static bool mismatch(const json_t *value, const char *name, const char *wanted, char error[OSB_INPUT_ERROR_SIZE])
{
    snprintf(error, OSB_INPUT_ERROR_SIZE, "json: cannot unmarshal %s into field %.100s of type %s",
             osb_input_type_name(value), name, wanted);
    return false;
}

bool osb_input_string(const json_t *object, const char *name, const char **value, char error[OSB_INPUT_ERROR_SIZE])
{
    const json_t *field = json_object_get(object, name);
    *value = "";
    if (!field || json_is_null(field))
        return true;
    if (!json_is_string(field))
        return mismatch(field, name, "string", error);
    *value = json_string_value(field);
    if (strlen(*value) != json_string_length(field)) {
        snprintf(error, OSB_INPUT_ERROR_SIZE, "field %.100s holds a NUL character", name);
        return false;
    }
    return true;
}

bool osb_input_integer(const json_t *object, const char *name, int64_t *value, char error[OSB_INPUT_ERROR_SIZE])
{
    const json_t *field = json_object_get(object, name);
    *value = 0;
    if (!field || json_is_null(field))
        return true;
    if (!json_is_integer(field))
        return mismatch(field, name, "int64", error);
    *value = json_integer_value(field);
    return true;
}

bool osb_input_boolean(const json_t *object, const char *name, bool *value, char error[OSB_INPUT_ERROR_SIZE])
{
    const json_t *field = json_object_get(object, name);
    *value = false;
    if (!field || json_is_null(field))
        return true;
    if (!json_is_boolean(field))
        return mismatch(field, name, "bool", error);
    *value = json_is_true(field);
    return true;
}
