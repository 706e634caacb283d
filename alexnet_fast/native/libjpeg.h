/* The libjpeg-turbo that Pillow brings, found at run time, and one decompressor of it. */

#ifndef LIBJPEG_H
#define LIBJPEG_H

#include <setjmp.h>

#include "abi.h"

typedef struct {
    Errors *(*std_error)(Errors *);
    void (*create)(Jpeg *, int version, size_t size);
    void (*destroy)(Jpeg *);
    void (*mem_src)(Jpeg *, const uint8_t *, unsigned long);
    int (*read_header)(Jpeg *, int);
    int (*start)(Jpeg *);
    void (*crop)(Jpeg *, unsigned *left, unsigned *width);
    unsigned (*skip)(Jpeg *, unsigned);
    unsigned (*read)(Jpeg *, uint8_t **, unsigned);
    int (*finish)(Jpeg *);
    void (*abort)(Jpeg *);
} Libjpeg;

extern Libjpeg libjpeg;
/* Its decoder of a baseline JPEG's coefficients, where ours may take its place; else NULL. */
extern DecodeMcu *replaced_decoder;

/* Memory that is used again: what it holds is written before it is read, so that no image shows in the next.
   `rows`: a few rows of the decoded image, each with room for `row_bytes`; `copy`: of a scan, see huffman.c. */
enum { ROWS = 4 };
typedef struct {
    uint8_t *memory, *rows[ROWS], *copy;
    long row_bytes, room;
} Scratch;

int has_rows(Scratch *scratch, long bytes); /* makes room for so many a row; 0 where no memory is left */
void free_scratch(Scratch *scratch);

/* A scan under way. Of the bits before `at`, `left` are still to come; `bits` begins with them. */
typedef struct Tables Tables;
typedef struct {
    const Tables *tables;
    const uint8_t *source, *source_end; /* what is not copied yet */
    uint8_t *copy, *end;                /* of the interval between two restarts */
    const uint8_t *at;
    uint64_t bits;
    int left;
    int dc[4];                    /* of each component, the last */
    unsigned mcus_left, restarts; /* until the next restart; those before */
} Scan;

/* A decompressor. `fresh`: as libjpeg made it. */
typedef struct {
    Jpeg jpeg, fresh;
    Errors errors;
    Scan scan;
    Scratch *scratch;
    jmp_buf failed;
    char message[200];
} Decoder;

/* Returns 0 where no memory is left. What libjpeg fails at or warns of continues at `decoder->failed`, which must be set
   again before each further use; `message` says why. */
int create_decoder(Decoder *decoder, Scratch *scratch);

/* To be called before each image but the first: libjpeg would keep the tables of the last, and the next may have none.
   A new decompressor would do too, but on a virtual machine takes a tenth of a JPEG's time (cpuid). */
void renew_decoder(Decoder *decoder);

void destroy_decoder(Decoder *decoder); /* also one that was only filled with zeros */

/* After libjpeg's start: rows will begin at the returned column, `left` or before, and reach to `end` at least. */
unsigned keep_columns(Jpeg *jpeg, int left, int end);

#endif
