/* The rules of the lifecycle API for metadata and times. */
#ifndef OSB_RULES_H
#define OSB_RULES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct osb_rule_error {
    const char *code; /* NULL: the request is malformed */
    char message[512];
};

/* Metadata may be any text but for the reserved keys and for its size; the official servers, which keep it as labels of
 * Docker or Kubernetes, take less. False with the error. */
bool osb_rules_check_metadata(const json_t *metadata, struct osb_rule_error *error);

/* Reads an ISO 8601 time; without a zone it is UTC. False when it is none. */
bool osb_rules_parse_time(const char *text, struct timespec *time);

/* Decodes the metadata filter of a list ("k=v&k2=v2", URL-encoded) to an object of strings (the caller's). NULL when it
 * is malformed. */
json_t *osb_rules_parse_filter(const char *filter);

#endif
