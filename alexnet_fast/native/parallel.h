/* Work on the threads that torch computes with: those of the OpenMP library that it brings. */

#ifndef PARALLEL_H
#define PARALLEL_H

/* Calls `work` on parts of 0 to `count`, which together are all of it, on as many threads; returns when all are done. */
void in_parallel(void (*work)(void *job, long first, long end), void *job, long count, int threads);

#endif
