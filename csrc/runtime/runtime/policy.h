/* What a sandbox may reach: the network policy of the API, with the meaning that the official egress sidecar gives it.
 */
#ifndef OSB_POLICY_H
#define OSB_POLICY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "runtime/runtime/address.h"

#define OSB_POLICY_RULES 4096

struct osb_policy;

/* Why there is no policy: a sentence part. */
struct osb_policy_error {
    char text[256];
    bool too_many; /* rules */
};

/* Lets everything through, or nothing. NULL when memory is out. */
struct osb_policy *osb_policy_new(bool allow);
void osb_policy_free(struct osb_policy *policy);

/* Reads {"defaultAction": …, "egress": [{"action": …, "target": …}, …]}. What is left out denies. NULL with the error.
 */
struct osb_policy *osb_policy_parse(const json_t *policy, struct osb_policy_error *error);

/* A new policy with the rules of the array before the old ones; of those with the same target the first stays. */
struct osb_policy *osb_policy_patch(const struct osb_policy *policy, const json_t *rules,
                                    struct osb_policy_error *error);

/* A new policy without the rules for the targets of an array of strings; *removed is how many went. */
struct osb_policy *osb_policy_remove(const struct osb_policy *policy, const json_t *targets, size_t *removed,
                                     struct osb_policy_error *error);

/* A new reference to it as JSON. */
json_t *osb_policy_json(const struct osb_policy *policy);

/* "allow_all", "deny_all" or "enforcing". */
const char *osb_policy_mode(const struct osb_policy *policy);

/* A name may be looked up and connected to: the first rule for it or for "*.…" above it says so, else the default. Any
 * address is let through here. */
bool osb_policy_allows_name(const struct osb_policy *policy, const char *name);

/* An address may be connected to. Rules that deny come first. One found by a name that is allowed needs no rule that
 * allows it. */
bool osb_policy_allows_address(const struct osb_policy *policy, const union osb_address *address, bool by_name);

#endif
