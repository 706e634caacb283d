#include "thread.h"

#include <pthread.h>

#include "check.h"

typedef struct { void *(*work)(void *); void *data; } Job;

static void *do_job(void *data) {
    Job *job = data;
    size_t before = allocated_bytes();
    job->work(job->data);
    size_t after = allocated_bytes();
    CHECK(before == after, "%zu bytes were allocated before, %zu after", before, after);
    return NULL;
}

void on_new_thread(void *(*work)(void *), void *data) {
    pthread_t thread;
    Job job = {work, data};
    CHECK(!pthread_create(&thread, NULL, do_job, &job), "no thread can be made");
    pthread_join(thread, NULL);
}
