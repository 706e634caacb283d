#include "parallel.h"

#include <dlfcn.h>
#include <stddef.h>

#include "native.h"

/* libgomp's calls, of which `#pragma omp parallel` is made. Found at run time: sharding needs none of it, and a process
   should have one pool of such threads. */
static struct {
    void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);
    int (*thread)(void), (*threads)(void);
} openmp;

/* Whether there is an OpenMP library: to be called when torch, which brings it, is imported. */
EXPORT int find_openmp(void) {
    void *library = dlopen("libgomp.so.1", RTLD_NOW);
    if (!library) return 0;
    *(void **)&openmp.parallel = dlsym(library, "GOMP_parallel");
    *(void **)&openmp.thread = dlsym(library, "omp_get_thread_num");
    *(void **)&openmp.threads = dlsym(library, "omp_get_num_threads");
    return openmp.parallel && openmp.thread && openmp.threads;
}

typedef struct { void (*work)(void *, long, long); void *job; long count; } Task;

static void work_on_part(void *data) {
    Task *task = data;
    long thread = openmp.thread(), threads = openmp.threads();
    task->work(task->job, task->count * thread / threads, task->count * (thread + 1) / threads);
}

void in_parallel(void (*work)(void *job, long first, long end), void *job, long count, int threads) {
    Task task = {work, job, count};
    openmp.parallel(work_on_part, &task, threads, 0);
}
