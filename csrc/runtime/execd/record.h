/* What is known of commands, running and ended: the last 10 000 of them. */
#ifndef OSB_RECORD_H
#define OSB_RECORD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "runtime/shared/evloop.h"

struct osb_record_table;

struct osb_record {
    char id[33];
    char *command;
    char *log_path; /* combined output of a background command, else NULL; the file goes with the record */
    pid_t pid;      /* leader and id of its group while running */
    bool running;
    int exit_code;
    char error[64]; /* "" after success */
    struct timespec started, finished;
    struct osb_timer timeout; /* of a background command */
    struct osb_evloop *loop;  /* of that timer */
    struct osb_record *next, *hash_next;
};

struct osb_record_table *osb_record_table_new(void);

/* Frees all records and removes their files. */
void osb_record_table_free(struct osb_record_table *table);

/* A new record with a random id, running from now on; the oldest ended ones make room for it. NULL when memory is out
 * or all that are kept still run. It stays valid while it runs. */
struct osb_record *osb_record_new(struct osb_record_table *table, const char *command);

/* Makes the record's background log, open for appending; -1 with errno. */
int osb_record_open_log(struct osb_record_table *table, struct osb_record *record);

struct osb_record *osb_record_find(const struct osb_record_table *table, const char *id);

/* The command ended with this wait status. */
void osb_record_finish(struct osb_record *record, int status);

/* The command could not be started. */
void osb_record_fail(struct osb_record *record, const char *error);

/* Forgets a record that nobody was told about. */
void osb_record_drop(struct osb_record_table *table, struct osb_record *record);

/* The status answer; NULL when memory is out. */
json_t *osb_record_status(const struct osb_record *record);

#endif
