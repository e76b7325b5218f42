/* What many exchanges at once cost with libcurl alone: bench_at_once URL COMMAND COUNT runs COUNT commands at the same
   time and prints the seconds until the last of them had its last event. Streams are let go at that event. */
#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_COUNT 20000

struct exchange {
    CURL *easy;
    bool ended;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct exchange *exchange = user;
    if (memmem(bytes, size * count, "execution_complete", 18))
        exchange->ended = true;
    return exchange->ended ? 0 : size * count;
}

static CURLM *start(struct exchange *exchanges, int count, const char *url, const char *body,
                    const struct curl_slist *headers)
{
    CURLM *multi = curl_multi_init();
    for (int i = 0; multi && i < count; i++) {
        CURL *easy = exchanges[i].easy = curl_easy_init();
        if (!easy)
            return NULL;
        curl_easy_setopt(easy, CURLOPT_URL, url);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, (void *)&exchanges[i]);
        curl_multi_add_handle(multi, easy);
    }
    return multi;
}

/* The number of exchanges that came to their last event. */
static int finish(CURLM *multi)
{
    int running = 1, left, good = 0;
    while (running > 0 && curl_multi_perform(multi, &running) == CURLM_OK) {
        CURLMsg *message;
        while ((message = curl_multi_info_read(multi, &left))) {
            if (message->msg != CURLMSG_DONE)
                continue;
            good += message->data.result == CURLE_WRITE_ERROR || message->data.result == CURLE_OK;
            curl_multi_remove_handle(multi, message->easy_handle);
        }
        if (running > 0)
            curl_multi_poll(multi, NULL, 0, 1000, NULL);
    }
    return good;
}

int main(int argc, char **argv)
{
    static struct exchange exchanges[MAX_COUNT];
    int count = argc == 4 ? atoi(argv[3]) : 0;
    if (count < 1 || count > MAX_COUNT) {
        fputs("usage: bench_at_once URL COMMAND COUNT\n", stderr);
        return 2;
    }
    char body[256];
    snprintf(body, sizeof body, "{\"command\":\"%s\"}", argv[2]);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    double begin = now();
    CURLM *multi = start(exchanges, count, argv[1], body, headers);
    int good = multi ? finish(multi) : 0;
    printf("%.9f\n", now() - begin);
    for (int i = 0; i < count; i++)
        curl_easy_cleanup(exchanges[i].easy);
    curl_multi_cleanup(multi);
    curl_slist_free_all(headers);
    return good == count ? 0 : 1;
}
