/* What libjpeg makes of a JPEG by itself: every row from the first to the last, nothing of ours in it. */

#ifndef ORACLE_H
#define ORACLE_H

#include <stdint.h>

#include "header.h"

/* `rows`: how many came before the first warning or error, `why`; `clean`: all of them, and none after them. */
typedef struct { int width, height, rows, clean; uint8_t *pixels; char why[200]; } Whole;

/* At `eighths` / 8. `header` is what header.c makes of it; libjpeg must read the same. `pixels` are to be freed. */
Whole decode_whole(const uint8_t *data, long bytes, int eighths, const Header *header);

/* Whether it is baseline, and grey or with colour of a resolution that all decoders take: jpeg_header.py's `is_usual`. */
int is_usual(const uint8_t *data, long bytes);

/* The libjpeg that Pillow brings is opened, and its decoder replaced; ends the process where it may not be. */
void prepare(void);

/* Whether an image's rows were read, since the last call, with coefficients by a function that is not libjpeg's. */
int was_ours(void);

#endif
