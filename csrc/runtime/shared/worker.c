#include "runtime/shared/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_THREADS 16

struct job {
    void (*run)(void *context);
    void (*done)(void *context);
    void *context;
    struct job *next;
};

struct job_queue {
    struct job *head, **tail;
};

struct osb_worker_pool {
    pthread_mutex_t lock; /* guards all below but the last three */
    pthread_cond_t wanted;
    struct job_queue waiting;
    struct job_queue finished;
    bool stopping;
    int wake_fd; /* eventfd: something finished */
    struct osb_watch *watch;
    pthread_t threads[MAX_THREADS];
    unsigned int thread_count;
};

static void queue_init(struct job_queue *queue)
{
    queue->head = NULL;
    queue->tail = &queue->head;
}

static void queue_push(struct job_queue *queue, struct job *job)
{
    job->next = NULL;
    *queue->tail = job;
    queue->tail = &job->next;
}

static struct job *queue_pop(struct job_queue *queue)
{
    struct job *job = queue->head;
    if (!job)
        return NULL;
    queue->head = job->next;
    if (!queue->head)
        queue->tail = &queue->head;
    return job;
}

static void *worker_main(void *context)
{
    struct osb_worker_pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct job *job = pool->stopping ? NULL : queue_pop(&pool->waiting);
        if (!job) {
            if (pool->stopping)
                break;
            pthread_cond_wait(&pool->wanted, &pool->lock);
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        job->run(job->context);
        pthread_mutex_lock(&pool->lock);
        queue_push(&pool->finished, job);
        (void)eventfd_write(pool->wake_fd, 1);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Calls `done` for all jobs of the queue, which the lock no longer guards. */
static void jobs_done(struct job_queue *queue)
{
    struct job *job;
    while ((job = queue_pop(queue))) {
        job->done(job->context);
        free(job);
    }
}

static void pool_ready(void *context, uint32_t events)
{
    struct osb_worker_pool *pool = context;
    struct job_queue finished;
    eventfd_t count;
    (void)events;
    (void)eventfd_read(pool->wake_fd, &count);
    queue_init(&finished);
    pthread_mutex_lock(&pool->lock);
    struct job *job;
    while ((job = queue_pop(&pool->finished)))
        queue_push(&finished, job);
    pthread_mutex_unlock(&pool->lock);
    jobs_done(&finished);
}

struct osb_worker_pool *osb_worker_pool_new(struct osb_evloop *loop, unsigned int threads)
{
    struct osb_worker_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wanted, NULL);
    queue_init(&pool->waiting);
    queue_init(&pool->finished);
    pool->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pool->wake_fd >= 0)
        pool->watch = osb_evloop_watch(loop, pool->wake_fd, EPOLLIN, pool_ready, pool);
    /* signals are for the loop's thread */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->watch && pool->thread_count < threads && pool->thread_count < MAX_THREADS) {
        if (pthread_create(&pool->threads[pool->thread_count], NULL, worker_main, pool) != 0)
            break;
        pool->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pool->thread_count == 0) {
        osb_worker_pool_free(pool);
        return NULL;
    }
    return pool;
}

void osb_worker_pool_free(struct osb_worker_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wanted);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned int i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    jobs_done(&pool->finished);
    jobs_done(&pool->waiting);
    osb_watch_remove(pool->watch);
    if (pool->wake_fd >= 0)
        close(pool->wake_fd);
    pthread_cond_destroy(&pool->wanted);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

bool osb_worker_submit(struct osb_worker_pool *pool, void (*run)(void *context), void (*done)(void *context),
                       void *context)
{
    struct job *job = malloc(sizeof *job);
    if (!job)
        return false;
    *job = (struct job){.run = run, .done = done, .context = context};
    pthread_mutex_lock(&pool->lock);
    queue_push(&pool->waiting, job);
    pthread_cond_signal(&pool->wanted);
    pthread_mutex_unlock(&pool->lock);
    return true;
}
