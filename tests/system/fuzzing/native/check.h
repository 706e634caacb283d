/* What the fuzzers check by themselves, beside what the sanitizers do. */

#ifndef CHECK_H
#define CHECK_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the process, with the reason in the words of printf. */
#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { fprintf(stderr, "FAILED: " __VA_ARGS__); fputc('\n', stderr); abort(); } \
    } while (0)

/* Blocks of memory that this thread has allocated, less those that it has freed. Always 0 without the address sanitizer. */
long allocated_blocks(void);

/* Of all inputs; printed at the end of the process as libFuzzer prints its own: `stat::clean: 12`.

   decoded   had a header that the rule allows, and a fitting size: given to libjpeg by itself too
   clean     of these, those of which libjpeg warns nowhere
   accepted  of the decoded ones, by our code
   ours      of the decoded ones, those whose coefficients huffman.c decoded, at least of some rows
   usual     of the clean ones, baseline with colour of a usual resolution
   left      of the usual ones, those that the resize path refuses, for its caller to decode with another library
   between   images that were decoded between */
typedef struct { long decoded, clean, accepted, ours, usual, left, between; } Counts;
extern Counts counts;
void print_counts(void);

#endif
