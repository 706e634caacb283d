/* Reading files that are mapped into memory, where the disk may fail or the file may be cut off meanwhile. */

#ifndef PAGES_H
#define PAGES_H

#include <setjmp.h>

/* A page that cannot be read is a SIGBUS for the thread that touches it. Where this is set, that thread continues there
   (siglongjmp); elsewhere the signal goes to whoever handled it before. */
extern __thread sigjmp_buf *volatile way_out; /* volatile: what a handler sees */

/* To be called before `way_out` is set. */
void watch_pages(void);

#endif
