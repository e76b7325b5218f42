/* What all parts of one runtime share. */
#ifndef OSB_RUNTIME_H
#define OSB_RUNTIME_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "runtime/runtime/egress.h"
#include "runtime/runtime/janitor.h"
#include "runtime/runtime/limits.h"
#include "runtime/runtime/state.h"
#include "runtime/runtime/volume.h"
#include "runtime/shared/evloop.h"
#include "runtime/shared/http_proxy.h"
#include "runtime/shared/http_server.h"

#define OSB_MAX_ALIASES 32
#define OSB_MAX_SANDBOXES 1000
#define OSB_SECRET_SIZE 65

#define OSB_MAX_EXEMPT 8

struct osb_sandbox;
struct osb_snapshot;

struct osb_runtime {
    struct osb_evloop *loop;
    struct osb_http_server *server;
    struct osb_http_proxy *proxy;
    struct osb_resolver *resolver;           /* for the process's whole life */
    struct osb_egress_service *egress;       /* the sandboxes' way out */
    struct osb_range exempt[OSB_MAX_EXEMPT]; /* addresses that count as public */
    size_t exempt_count;
    struct osb_state state;
    struct osb_cgroups cgroups;
    struct osb_janitor janitor;
    char bwrap[PATH_MAX];
    char api_key[OSB_SECRET_SIZE * 4];
    const char *aliases[OSB_MAX_ALIASES]; /* names of images that stand for "host" */
    size_t alias_count;
    bool allow_host_network;
    struct osb_allowed_paths allowed_paths;
    struct osb_sandbox *sandboxes; /* newest first */
    size_t sandbox_count;
    struct osb_snapshot *snapshots; /* newest first */
    size_t snapshot_count;
};

#endif
