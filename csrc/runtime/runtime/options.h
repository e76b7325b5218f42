/* The command line. */
#ifndef OSB_OPTIONS_H
#define OSB_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/runtime/runtime.h"

struct osb_options {
    bool embedded;
    const char *listen;       /* "ADDR:PORT" */
    const char *state;        /* directory, or NULL */
    const char *log;          /* file, "-" for standard error, or NULL for no log */
    bool log_optional;        /* none will do when it can't be opened */
    const char *api_key_file; /* or NULL */
    const char *aliases[OSB_MAX_ALIASES];
    size_t alias_count;
    bool allow_host_network;
    struct osb_range exempt[OSB_MAX_EXEMPT];
    size_t exempt_count;
    struct osb_allowed_paths allowed_paths;
};

/* Reads the command line; prints help or what is wrong and exits where there is nothing to go on with. */
void osb_options_read(struct osb_options *options, int argc, char **argv);

#endif
