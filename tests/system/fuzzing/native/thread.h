/* A thread of its own has not decoded any image yet: nothing is kept of one. */

#ifndef THREAD_H
#define THREAD_H

/* Calls `work` on a new thread, and returns when it is done. It must free what it allocates. */
void on_new_thread(void *(*work)(void *), void *data);

#endif
