#include "thread.h"

#include <pthread.h>

#include "check.h"

typedef struct { void *(*work)(void *); void *data; } Job;

static void *do_job(void *data) {
    Job *job = data;
    long before = allocated_blocks();
    job->work(job->data);
    long kept = allocated_blocks() - before;
    CHECK(!kept, "%ld blocks of memory were allocated and not freed", kept);
    return NULL;
}

void on_new_thread(void *(*work)(void *), void *data) {
    pthread_t thread;
    Job job = {work, data};
    CHECK(!pthread_create(&thread, NULL, do_job, &job), "no thread can be made");
    pthread_join(thread, NULL);
}
