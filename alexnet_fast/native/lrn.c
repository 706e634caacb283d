/* LRN's forward and backward pass, of rows of c values each: the maps of one tower at one pixel. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "native.h"
#include "parallel.h"

typedef uint16_t bf16;
static inline float bf16_up(bf16 v) { uint32_t u = (uint32_t)v << 16; float f; memcpy(&f, &u, 4); return f; }
static inline bf16 bf16_down(float f) { /* to the nearest, ties to even; NaN stays NaN */
    uint32_t u; memcpy(&u, &f, 4);
    return f != f ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
static inline float float_up(float v) { return v; }
static inline float float_down(float v) { return v; }

/* padded holds half zeros, c values, half zeros: the sum over 2 half + 1 neighbours of value j, for every j */
static inline void window(const float *padded, float *sum, int c, int half) {
    memcpy(sum, padded, c * sizeof *sum);
    if (half == 2)
        for (int j = 0; j < c; j++) sum[j] += padded[j + 1] + padded[j + 2] + padded[j + 3] + padded[j + 4];
    else
        for (int o = 1; o <= 2 * half; o++) for (int j = 0; j < c; j++) sum[j] += padded[j + o];
}

/* Of `in` (rows, c), and of `gradient` where it is a backward pass. */
typedef struct { const void *in, *gradient; void *out; int c, half; float a, k; } Lrn;

/* y = x s^-3/4 with s = k + a window(x^2); dx = g s^-3/4 - 3/2 a x window(g x s^-7/4) */
#define LRN(T) \
static void forward_rows_##T(void *job, long first, long end) { \
    Lrn lrn = *(const Lrn *)job; \
    const T *x = lrn.in; T *y = lrn.out; \
    const int c = lrn.c, half = lrn.half; const float a = lrn.a, k = lrn.k; \
    float square[c + 2 * half], sum[c]; \
    memset(square, 0, sizeof square); \
    for (long i = first; i < end; i++) { \
        for (int j = 0; j < c; j++) { float v = T##_up(x[i * c + j]); square[half + j] = v * v; } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) { \
            float root = 1 / sqrtf(k + a * sum[j]); \
            y[i * c + j] = T##_down(T##_up(x[i * c + j]) * root * sqrtf(root)); \
        } \
    } \
} \
static void backward_rows_##T(void *job, long first, long end) { \
    Lrn lrn = *(const Lrn *)job; \
    const T *x = lrn.in, *g = lrn.gradient; T *dx = lrn.out; \
    const int c = lrn.c, half = lrn.half; const float a = lrn.a, k = lrn.k; \
    float square[c + 2 * half], sum[c], direct[c]; \
    memset(square, 0, sizeof square); \
    for (long i = first; i < end; i++) { \
        for (int j = 0; j < c; j++) { float v = T##_up(x[i * c + j]); square[half + j] = v * v; } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) { \
            float root = 1 / sqrtf(k + a * sum[j]); \
            direct[j] = T##_up(g[i * c + j]) * root * sqrtf(root); \
            square[half + j] = direct[j] * (T##_up(x[i * c + j]) * root * root); \
        } \
        window(square, sum, c, half); \
        for (int j = 0; j < c; j++) \
            dx[i * c + j] = T##_down(direct[j] - 1.5f * a * T##_up(x[i * c + j]) * sum[j]); \
    } \
} \
KERNEL(void, forward_##T)(const T *x, T *y, long rows, int c, int half, float a, float k, int threads) { \
    Lrn lrn = {x, NULL, y, c, half, a, k}; \
    in_parallel(forward_rows_##T, &lrn, rows, threads); \
} \
KERNEL(void, backward_##T)(const T *x, T *dx, long rows, int c, int half, float a, float k, int threads, const T *g) { \
    Lrn lrn = {x, g, dx, c, half, a, k}; \
    in_parallel(backward_rows_##T, &lrn, rows, threads); \
}
LRN(float)
LRN(bf16)
