/* Weights for resize.c. */

#ifndef AXIS_H
#define AXIS_H

#include <stdint.h>

typedef struct { int32_t *first; int16_t *weights; int taps, shift; } FuzzAxis;

/* The central `size` of `new` pixels from `old`: resize_kernel.py's `axis`. */
FuzzAxis make_axis(int old, int new, int size);
void free_axis(FuzzAxis *axis);

#endif
