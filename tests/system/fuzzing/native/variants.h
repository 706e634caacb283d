/* The kernels for each kind of processor, by number (see cpu.c). */

#ifndef VARIANTS_H
#define VARIANTS_H

#include <stdint.h>

typedef int Crops(int n, const uint8_t *const *stored, const int64_t *bytes, const int32_t *frames, const int32_t *boxes,
                  int upright, const float *offset, int crop, int kind, uint8_t *out, char *message);
typedef int MiddleOfPixels(const uint8_t *image, int width, int height, int wide, int high, uint8_t *out,
                           const int32_t *x_first, const int16_t *x_weights, int x_taps, int x_shift,
                           const int32_t *y_first, const int16_t *y_weights, int y_taps, int y_shift);
typedef int MiddleOfJpeg(const uint8_t *data, long bytes, int eighths, int width, int height, int wide, int high,
                         uint8_t *out, const int32_t *x_first, const int16_t *x_weights, int x_taps, int x_shift,
                         const int32_t *y_first, const int16_t *y_weights, int y_taps, int y_shift);

typedef struct { Crops *crops; MiddleOfPixels *middle; MiddleOfJpeg *jpeg_middle; } Kernels;

/* For choices 0 to 3: the newest that this processor runs twice, then v3 where it runs that, then plain. */
const Kernels *kernels_of(int choice);

#endif
