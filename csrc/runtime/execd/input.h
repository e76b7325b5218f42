/* Reading fields of request bodies, with the messages of the original server. A missing field or null is the zero
 * value. */
#ifndef OSB_INPUT_H
#define OSB_INPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/shared/http_server.h"

#define OSB_INPUT_ERROR_SIZE 256

/* The body as a JSON object (or null: an empty one), to be released; NULL with a message in `error`. */
json_t *osb_input_object(const struct osb_http_request *request, char error[OSB_INPUT_ERROR_SIZE]);

/* Text without NUL bytes, "" when missing; valid as long as `object`. */
bool osb_input_string(const json_t *object, const char *name, const char **value, char error[OSB_INPUT_ERROR_SIZE]);
bool osb_input_integer(const json_t *object, const char *name, int64_t *value, char error[OSB_INPUT_ERROR_SIZE]);
bool osb_input_boolean(const json_t *object, const char *name, bool *value, char error[OSB_INPUT_ERROR_SIZE]);

/* A JSON type as Go names it in messages. */
const char *osb_input_type_name(const json_t *value);

#endif
