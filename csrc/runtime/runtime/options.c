#include "runtime/runtime/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: opensandbox-runtime --embedded\n"
    "       opensandbox-runtime --listen ADDR:PORT --api-key-file FILE [OPTION]...\n"
    "Serves the OpenSandbox lifecycle API with sandboxes made by bubblewrap on this machine.\n"
    "\n"
    "  --embedded            serve the process that starts it, and end with it; needs a pipe as standard input\n"
    "  --listen ADDR:PORT    serve on a loopback address; port 0 takes a free one\n"
    "  --api-key-file FILE   the API key that clients must send is the first line of FILE\n"
    "  --state DIR           keep the sandboxes' files below DIR (default: TMPDIR, /var/tmp or /tmp)\n"
    "  --alias NAME=host     take the image name NAME for host (may be repeated)\n"
    "  --allow-host-network  let sandboxes ask for the machine's network (always allowed when embedded)\n"
    "  --allow-host-path DIR let sandboxes mount DIR and what is below it (may be repeated)\n"
    "  --proxy-allow-address ADDRESS[/BITS]\n"
    "                        let sandboxes reach it through their proxy although it is not public, as on a test\n"
    "                        network (may be repeated)\n"
    "  --log FILE            log to FILE, lines of JSON; - is standard error (default, unless embedded)\n"
    "  --help                print this\n"
    "\n"
    "Environment: OPENSANDBOX_EXECD (path of opensandbox-execd; default: beside this program),\n"
    "OPENSANDBOX_RUNTIME_LOG (what --log is), OPENSANDBOX_ALLOWED_HOST_PATHS\n"
    "(DIR[:DIR]..., for --embedded what --allow-host-path is).\n";

static _Noreturn void misuse(const char *message, const char *argument)
{
    (void)fprintf(stderr, "opensandbox-runtime: %s%s\nTry --help.\n", message, argument);
    exit(2);
}

static void add_alias(struct osb_options *options, char *text)
{
    char *target = strrchr(text, '=');
    if (!target || target == text || strcmp(target, "=host") != 0)
        misuse("an alias has the form NAME=host: ", text);
    if (options->alias_count == OSB_MAX_ALIASES)
        misuse("there are too many aliases at ", text);
    *target = '\0';
    options->aliases[options->alias_count++] = text;
}

static void allow_path(struct osb_options *options, const char *path)
{
    if (!osb_volumes_allow(&options->allowed_paths, path))
        misuse("an allowed host path must be absolute, and there may be 64 of them: ", path);
}

/* The embedded runtime's list comes from its owner's environment. */
static void allow_paths_of_environment(struct osb_options *options)
{
    const char *list = getenv("OPENSANDBOX_ALLOWED_HOST_PATHS");
    char *copy = strdup(list ? list : "");
    char *rest = NULL;
    for (const char *path = copy ? strtok_r(copy, ":", &rest) : NULL; path; path = strtok_r(NULL, ":", &rest))
        allow_path(options, path);
    free(copy);
}

static void add_exempt(struct osb_options *options, const char *text)
{
    if (options->exempt_count == OSB_MAX_EXEMPT)
        misuse("there are too many addresses at ", text);
    if (!osb_range_parse(text, &options->exempt[options->exempt_count]))
        misuse("an address has the form 192.0.2.1 or 192.0.2.0/24: ", text);
    options->exempt_count++;
}

void osb_options_read(struct osb_options *options, int argc, char **argv)
{
    static const struct option known[] = {{"embedded", no_argument, NULL, 'e'},
                                          {"listen", required_argument, NULL, 'l'},
                                          {"state", required_argument, NULL, 's'},
                                          {"api-key-file", required_argument, NULL, 'k'},
                                          {"alias", required_argument, NULL, 'a'},
                                          {"allow-host-network", no_argument, NULL, 'n'},
                                          {"allow-host-path", required_argument, NULL, 'p'},
                                          {"proxy-allow-address", required_argument, NULL, 'x'},
                                          {"log", required_argument, NULL, 'o'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    *options = (struct osb_options){0};
    int option;
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'e':
            options->embedded = true;
            break;
        case 'l':
            options->listen = optarg;
            break;
        case 's':
            options->state = optarg;
            break;
        case 'k':
            options->api_key_file = optarg;
            break;
        case 'a':
            add_alias(options, optarg);
            break;
        case 'n':
            options->allow_host_network = true;
            break;
        case 'p':
            allow_path(options, optarg);
            break;
        case 'x':
            add_exempt(options, optarg);
            break;
        case 'o':
            options->log = optarg;
            break;
        case 'h':
            (void)fputs(usage, stdout);
            exit(0);
        default:
            misuse("unknown option", "");
        }
    }
    if (optind < argc)
        misuse("unexpected argument ", argv[optind]);
    if (options->embedded == (options->listen != NULL))
        misuse("exactly one of --embedded and --listen is needed", "");
    if (options->listen && !options->api_key_file)
        misuse("--listen needs --api-key-file", "");
    const char *log = getenv("OPENSANDBOX_RUNTIME_LOG");
    options->log_optional = !options->log;
    if (!options->log && log && *log)
        options->log = log;
    else if (!options->log && !options->embedded)
        options->log = "-";
    if (options->embedded)
        allow_paths_of_environment(options);
    if (options->embedded && options->api_key_file)
        misuse("--embedded makes an API key of its own; leave --api-key-file out", "");
}
