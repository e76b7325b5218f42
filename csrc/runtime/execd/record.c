#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "runtime/shared/text.h"

#define MAX_RECORDS 10000
#define BUCKETS 4096
#define MAX_CONTENT ((size_t)64 << 10) /* bytes of a command that are kept for its status */

struct osb_record_table {
    struct osb_record *first, **last; /* oldest first */
    size_t count;
    struct osb_record *buckets[BUCKETS];
    char *directory; /* of the logs, made at first need */
};

static size_t bucket_of(const char *id)
{
    size_t hash = 5381;
    for (; *id; id++)
        hash = hash * 33 + (unsigned char)*id;
    return hash % BUCKETS;
}

struct osb_record_table *osb_record_table_new(void)
{
    struct osb_record_table *table = calloc(1, sizeof *table);
    if (table)
        table->last = &table->first;
    return table;
}

static void record_free(struct osb_record *record)
{
    if (record->log_path)
        unlink(record->log_path);
    free(record->log_path);
    free(record->command);
    free(record);
}

/* Takes the record at *link out of the list and the hash, and frees it. */
static void table_remove(struct osb_record_table *table, struct osb_record **link)
{
    struct osb_record *record = *link;
    struct osb_record **slot = &table->buckets[bucket_of(record->id)];
    while (*slot != record)
        slot = &(*slot)->hash_next;
    *slot = record->hash_next;
    *link = record->next;
    if (!record->next)
        table->last = link;
    table->count--;
    record_free(record);
}

void osb_record_table_free(struct osb_record_table *table)
{
    if (!table)
        return;
    while (table->first)
        table_remove(table, &table->first);
    if (table->directory)
        rmdir(table->directory);
    free(table->directory);
    free(table);
}

/* Frees the oldest record that has ended; false when all run. */
static bool evict(struct osb_record_table *table)
{
    for (struct osb_record **link = &table->first; *link; link = &(*link)->next) {
        if (!(*link)->running) {
            table_remove(table, link);
            return true;
        }
    }
    return false;
}

struct osb_record *osb_record_new(struct osb_record_table *table, const char *command)
{
    if (table->count >= MAX_RECORDS && !evict(table))
        return NULL;
    struct osb_record *record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    record->command = strndup(command, MAX_CONTENT);
    if (!record->command) {
        free(record);
        return NULL;
    }
    osb_random_hex(record->id, 32);
    record->running = true;
    clock_gettime(CLOCK_REALTIME, &record->started);
    struct osb_record **slot = &table->buckets[bucket_of(record->id)];
    record->hash_next = *slot;
    *slot = record;
    *table->last = record;
    table->last = &record->next;
    table->count++;
    return record;
}

int osb_record_open_log(struct osb_record_table *table, struct osb_record *record)
{
    if (!table->directory) {
        char path[] = "/tmp/.opensandbox-execd.XXXXXX";
        if (mkdir("/tmp", 01777) == 0)
            chmod("/tmp", 01777);
        if (!mkdtemp(path))
            return -1;
        table->directory = strdup(path);
        if (!table->directory) {
            rmdir(path);
            errno = ENOMEM;
            return -1;
        }
    }
    /* a command may have emptied /tmp */
    if (mkdir("/tmp", 01777) == 0)
        chmod("/tmp", 01777);
    if (mkdir(table->directory, 0700) < 0 && errno != EEXIST)
        return -1;
    if (asprintf(&record->log_path, "%s/%s.output", table->directory, record->id) < 0) {
        record->log_path = NULL;
        errno = ENOMEM;
        return -1;
    }
    return open(record->log_path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
}

struct osb_record *osb_record_find(const struct osb_record_table *table, const char *id)
{
    struct osb_record *record = table->buckets[bucket_of(id)];
    while (record && strcmp(record->id, id) != 0)
        record = record->hash_next;
    return record;
}

static void record_end(struct osb_record *record, int exit_code)
{
    record->running = false;
    record->pid = 0;
    record->exit_code = exit_code;
    clock_gettime(CLOCK_REALTIME, &record->finished);
}

void osb_record_finish(struct osb_record *record, int status)
{
    record_end(record, osb_child_exit_code(status));
    if (status != 0)
        osb_child_describe(status, record->error);
}

void osb_record_fail(struct osb_record *record, const char *error)
{
    record_end(record, 255);
    snprintf(record->error, sizeof record->error, "%s", error);
}

void osb_record_drop(struct osb_record_table *table, struct osb_record *record)
{
    struct osb_record **link = &table->first;
    while (*link != record)
        link = &(*link)->next;
    table_remove(table, link);
}

json_t *osb_record_status(const struct osb_record *record)
{
    char started[OSB_TIME_SIZE], finished[OSB_TIME_SIZE];
    osb_time_format(&record->started, started);
    json_t *status = json_pack("{s:s}", "id", record->id);
    if (!status)
        return NULL;
    int failed = 0;
    if (record->command[0])
        failed |= json_object_set_new(status, "content", osb_json_text(record->command, strlen(record->command)));
    failed |= json_object_set_new(status, "running", json_boolean(record->running));
    if (!record->running) {
        failed |= json_object_set_new(status, "exit_code", json_integer(record->exit_code));
        if (record->error[0])
            failed |= json_object_set_new(status, "error", json_string(record->error));
    }
    failed |= json_object_set_new(status, "started_at", json_string(started));
    if (!record->running) {
        osb_time_format(&record->finished, finished);
        failed |= json_object_set_new(status, "finished_at", json_string(finished));
    }
    if (failed) {
        json_decref(status);
        return NULL;
    }
    return status;
}
