/* What a fuzzer's input holds: a JPEG, maybe a second one, and TRAILER bytes that say what is done with them. */

#ifndef INPUT_H
#define INPUT_H

#include <stddef.h>

#include "header.h"
#include "pack.h"
#include "variants.h"

enum { TRAILER = 16, MAX_SIDE = 300, MAX_SCANNED = 2000000, FIXED = 96, PIXELS = 128 };

/* `image`, a copy of its own. `other`: what is decoded before it, to see whether that changes anything. Below FIXED of
   those of OTHERS, which is at `which` among them; from FIXED on no JPEG but pixels; from PIXELS on the second JPEG.
   `numbers`: for the size and the place of a crop, for instance. */
typedef struct {
    Item image, other;
    int has_other, which, flags, numbers[4], bytes[5];
    const Kernels *kernels;
    Header header, header_of_other;
} Input;

/* Returns 0 where it is too short or the image larger than MAX_SIDE or of too many scans. Call `free_input` after 1. */
int read_input(const uint8_t *data, size_t bytes, Input *input);
void free_input(Input *input);

/* Whether the other image comes on the same thread, after the image alone, or on a new one. */
int is_on_same_thread(const Input *input);

/* The images that are decoded between: read once, by `prepare_others`. */
extern Pack others;
void prepare_others(void);

#endif
