/* What an exchange costs with libcurl alone, on one kept connection: bench_exchange URL COMMAND COUNT runs the command
   COUNT times and prints the median time from the request to the last event, in seconds. With the command "hold" it
   lets the stream go at its last event, as nobody has to wait for what follows. */
#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_COUNT 100000

struct answer {
    double last_event; /* when it came; 0: not yet */
    bool leaves;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct answer *answer = user;
    if (memmem(bytes, size * count, "execution_complete", 18))
        answer->last_event = now();
    return answer->leaves && answer->last_event > 0 ? 0 : size * count;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
    int count = argc == 4 ? atoi(argv[3]) : 0;
    static double times[MAX_COUNT];
    CURL *easy = curl_easy_init();
    if (count < 1 || count > MAX_COUNT || !easy) {
        fputs("usage: bench_exchange URL COMMAND COUNT\n", stderr);
        return 2;
    }
    char body[256];
    snprintf(body, sizeof body, "{\"command\":\"%s\"}", argv[2]);
    struct answer answer = {.leaves = strcmp(argv[2], "hold") == 0};
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, (void *)&answer);
    for (int i = 0; i < count; i++) {
        answer.last_event = 0;
        double start = now();
        CURLcode code = curl_easy_perform(easy);
        if (code != CURLE_OK && !(answer.leaves && code == CURLE_WRITE_ERROR)) {
            fprintf(stderr, "bench_exchange: %s\n", curl_easy_strerror(code));
            return 1;
        }
        times[i] = (answer.leaves ? answer.last_event : now()) - start;
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    printf("%.9f\n", times[count / 2]);
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    return 0;
}
