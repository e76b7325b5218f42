/* A sandbox: its record, its processes, and how it goes from one state to the next. */
#ifndef OSB_SANDBOX_H
#define OSB_SANDBOX_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "runtime/runtime/copy.h"
#include "runtime/runtime/diary.h"
#include "runtime/runtime/egress.h"
#include "runtime/runtime/identity.h"
#include "runtime/runtime/isolation.h"
#include "runtime/runtime/network.h"
#include "runtime/runtime/runtime.h"

#define OSB_ID_SIZE 37

enum osb_network_mode {
    OSB_NETWORK_PROXY, /* its own, and out by HTTP through our proxy */
    OSB_NETWORK_NONE,  /* its own */
    OSB_NETWORK_HOST   /* the machine's */
};

enum osb_sandbox_state {
    OSB_PENDING,
    OSB_RUNNING,
    OSB_PAUSED,
    OSB_TERMINATED, /* ended by itself, with status 0 */
    OSB_FAILED      /* ended by itself, in another way */
};

/* What create asks for. The values are borrowed and may be NULL. */
struct osb_sandbox_spec {
    json_t *image;
    const struct osb_snapshot *snapshot; /* to be made from; or NULL */
    json_t *platform;
    json_t *env;
    json_t *metadata;
    json_t *entrypoint;
    json_t *command;       /* of the entrypoint, when it is to be run */
    int64_t timeout;       /* seconds until it expires; 0: never */
    int64_t renew_seconds; /* use through the runtime puts the expiry off to that many seconds later; 0: it does not */
    enum osb_network_mode network;
    const json_t *policy;       /* for the proxy; NULL lets everything through */
    struct osb_volumes volumes; /* taken over */
    struct osb_limits limits;
};

/* `sandbox` runs; or it is NULL and `error` a sentence. */
typedef void (*osb_sandbox_started)(void *context, struct osb_sandbox *sandbox, const char *error);
typedef void (*osb_sandbox_gone)(void *context);

struct osb_sandbox {
    struct osb_sandbox *next;
    struct osb_runtime *runtime;
    char id[OSB_ID_SIZE];
    char token[OSB_SECRET_SIZE];
    char address[OSB_ADDRESS_SIZE]; /* of execd */
    bool own_address;               /* clients may use it */
    enum osb_network_mode network;
    char egress_token[OSB_SECRET_SIZE]; /* guards the policy */
    struct osb_egress *egress;          /* the proxy, once it runs and until its processes are gone */
    bool deleted;                       /* its processes are about to end */
    bool lost;                          /* it was on when an earlier runtime ended */
    enum osb_sandbox_state state;
    int exit_code; /* once terminated or failed */
    struct timespec created_at;
    struct timespec changed_at;
    struct timespec expires_at;
    bool expires;
    int64_t renew_seconds;
    json_t *image;
    json_t *snapshot_id; /* of the snapshot it was made from, or NULL */
    json_t *platform;
    json_t *metadata; /* always an object */
    json_t *entrypoint;
    struct osb_diary diary;
    struct osb_identity identity;
    struct osb_limits limits;
    struct osb_volumes volumes; /* once it runs, closed descriptors */
    struct osb_copy *restore;   /* while the snapshot is copied */
    /* private to sandbox.c */
    json_t *env; /* until it is started */
    json_t *command;
    struct osb_policy *policy; /* until the proxy has it */
    unsigned int holds;        /* snapshots that are being made */
    struct osb_isolated process;
    pid_t init;  /* the first process inside; 0 while not known */
    int init_fd; /* its pidfd */
    struct osb_watch *monitor_watch;
    struct osb_watch *status_watch;
    struct osb_watch *ready_watch;
    struct osb_watch *output_watch;
    struct osb_timer expiry;
    struct osb_timer patience; /* how long starting may take */
    bool ready;
    char status[512]; /* what bubblewrap told until now */
    size_t status_len;
    char output[1024]; /* the first that was printed on stderr before it ran */
    size_t output_len;
    size_t logged;               /* bytes of output that went to the log */
    osb_sandbox_started started; /* while create waits */
    void *started_context;
    osb_sandbox_gone gone; /* while delete waits */
    void *gone_context;
};

/* Makes and starts a sandbox; takes the volumes of `spec` over. `started` is called once, maybe before this returns. */
void osb_sandbox_create(struct osb_runtime *runtime, const struct osb_sandbox_spec *spec, osb_sandbox_started started,
                        void *context);

/* Finds a sandbox that was not deleted; NULL when there is none. */
struct osb_sandbox *osb_sandbox_find(const struct osb_runtime *runtime, const char *id);

/* Takes the sandbox off the list and ends its processes; `gone` (or NULL) is called when none is left, which may be at
 * once. The files go in the background. The sandbox must not be used after. */
void osb_sandbox_delete(struct osb_sandbox *sandbox, osb_sandbox_gone gone, void *context);

/* A new random id: a UUID (version 4). */
void osb_sandbox_make_id(char out[OSB_ID_SIZE]);

/* Puts a sandbox that is long over on the list; its state is to be filled in. NULL when memory is out. */
struct osb_sandbox *osb_sandbox_remember(struct osb_runtime *runtime, const char *id, json_t *metadata);

/* Has the processes of a running sandbox stand still, whatever its state says, until the last hold is released. False
 * when the kernel refused. */
bool osb_sandbox_hold(struct osb_sandbox *sandbox);
void osb_sandbox_release(struct osb_sandbox *sandbox);

/* It was used through the runtime: puts its expiry off where that was asked for. */
void osb_sandbox_touch(struct osb_sandbox *sandbox);

/* Stops all processes of a running sandbox, or lets those of a paused one go on. False when the kernel refused. */
bool osb_sandbox_pause(struct osb_sandbox *sandbox);
bool osb_sandbox_resume(struct osb_sandbox *sandbox);

/* Sets when it is deleted by itself. False when memory is out. */
bool osb_sandbox_set_expiry(struct osb_sandbox *sandbox, const struct timespec *time);

/* Frees all sandboxes, without a word to who waits; their processes and files are left to the janitor. */
void osb_sandbox_forget_all(struct osb_runtime *runtime);

/* The official name of its state ("Running"). */
const char *osb_sandbox_state_name(const struct osb_sandbox *sandbox);

#endif
