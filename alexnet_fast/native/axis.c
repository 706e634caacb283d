/* The weights with which one side of an image is resized: those of torch's antialiased uint8 interpolation
   (`_compute_index_ranges_int16_weights` in aten/src/ATen/native/cpu/UpSampleKernel.cpp), as sharding/resize.py has them. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

/* Four outputs of a side that is enlarged: the first input of any of them, and for each where its two inputs lie behind that,
   as the bytes of 16-bit pairs of red, green and blue, with the two weights of each pair. */
typedef struct { uint8_t places[4][16]; int16_t weights[4][8]; int32_t first, spare[15]; } Four;

/* Each output's first input and its weights, `taps` of them, whose scale is 2^shift. Outputs are filled up to a multiple of 4,
   as are taps where rows are resized; those of columns are to a multiple of 2. `fours`: of the same outputs, or NULL. */
typedef struct { const int32_t *first; const int16_t *weights; int taps, shift; const Four *fours; } Axis;

/* Memory that is used again. */
typedef struct { int32_t *first; int16_t *weights; double *exact; Four *fours; long outputs, room; } AxisMemory;

static void free_axis_memory(AxisMemory *memory) {
    free(memory->first);
    free(memory->weights);
    free(memory->exact);
    free(memory->fours);
}

static int has_axis_memory(AxisMemory *memory, long outputs, long taps) {
    if (memory->outputs >= outputs && memory->room >= outputs * taps) return 1;
    free_axis_memory(memory);
    *memory = (AxisMemory){
        malloc(outputs * sizeof *memory->first), malloc(outputs * taps * sizeof *memory->weights),
        malloc(outputs * taps * sizeof *memory->exact), aligned_alloc(64, outputs / 4 * sizeof *memory->fours), outputs,
        outputs * taps};
    if (memory->first && memory->weights && memory->exact && memory->fours) return 1;
    memory->outputs = memory->room = 0;
    return 0;
}

/* Weights of output `centre` from input `first` on, up to `end`: a triangle of this reach to either side, of sum 1. Returns
   the largest. */
static double weigh(double centre, double reach, int first, int end, int taps, double *weights) {
    double sum = 0, largest = 0, scale = 1 / reach;
    memset(weights, 0, taps * sizeof *weights);
    for (int k = 0; k < end - first; k++) {
        double weight = 1 - fabs((first + k - centre + 0.5) * scale);
        sum += weights[k] = weight > 0 ? weight : 0;
    }
    for (int k = 0; k < end - first; k++) {
        weights[k] /= sum;
        if (weights[k] > largest) largest = weights[k];
    }
    return largest;
}

static void make_fours(const Axis *axis, int outputs, Four *fours) {
    static const uint8_t places[16] = {0, 128, 3, 128, 1, 128, 4, 128, 2, 128, 5, 128, 128, 128, 128, 128};
    for (int i = 0; i < outputs; i += 4, fours++) {
        const int32_t *first = axis->first + i;
        fours->first = first[0] < first[3] ? first[0] : first[3];
        for (int j = 0; j < 4; j++) {
            int32_t pair;
            memcpy(&pair, axis->weights + (long)(i + j) * axis->taps, 4);
            for (int k = 0; k < 16; k++) fours->places[j][k] = places[k] + 3 * (first[j] - fours->first);
            for (int k = 0; k < 4; k++) memcpy(fours->weights[j] + 2 * k, &pair, 4);
        }
    }
}

/* Of output `i`: `centre`, and the inputs `first` to `end` that its triangle reaches. */
typedef struct { double centre; int first, end; } Reach;

static inline Reach reach_of(int i, double begin, double scale, double reach, int inputs) {
    double centre = begin + scale * (i + 0.5), low = centre - reach + 0.5, high = centre + reach + 0.5;
    int first = low < 0 ? 0 : (int)low;
    return (Reach){centre, first < inputs ? first : inputs - 1, high > inputs ? inputs : (int)high};
}

/* Weights of two inputs, in 14 bits. */
static void enlarge(AxisMemory *memory, double begin, double scale, int inputs, int size, int taps) {
    memset(memory->weights, 0, (long)size * taps * sizeof *memory->weights);
    for (int i = 0; i < size; i++) {
        Reach of = reach_of(i, begin, scale, 1, inputs);
        double second = of.centre - 0.5 - of.first; /* below 0 at the first input, whose triangle is then cut off */
        if (second < 0 || of.end < of.first + 2) second = 0;
        memory->first[i] = of.first;
        memory->weights[(long)i * taps] = (1 - second) * (1 << 14) + 0.5;
        memory->weights[(long)i * taps + 1] = second * (1 << 14) + 0.5;
    }
}

/* Returns their shift. */
static int shrink(AxisMemory *memory, double begin, double scale, int inputs, int size, int taps) {
    double largest = 0;
    int shift = 0;
    for (int i = 0; i < size; i++) {
        Reach of = reach_of(i, begin, scale, scale, inputs);
        int end = of.end < of.first + taps ? of.end : of.first + taps;
        memory->first[i] = of.first;
        double found = weigh(of.centre, scale, of.first, end, taps, memory->exact + (long)i * taps);
        if (found > largest) largest = found;
    }
    while (shift < 22 && (int)(0.5 + largest * (1 << (shift + 1))) < 1 << 15) shift++;
    for (long i = 0; i < (long)size * taps; i++) memory->weights[i] = memory->exact[i] * (1 << shift) + 0.5;
    return shift;
}

static void mirror_axis(AxisMemory *memory, int size, int taps) {
    for (int i = 0, j = size - 1; i < j; i++, j--) {
        int32_t first = memory->first[i];
        memory->first[i] = memory->first[j], memory->first[j] = first;
        for (int k = 0; k < taps; k++) {
            int16_t *a = memory->weights + (long)i * taps + k, *b = memory->weights + (long)j * taps + k, weight = *a;
            *a = *b, *b = weight;
        }
    }
}

/* The axis that makes `size` outputs of the inputs that cover `begin` to `begin + extent`, of which there are `inputs`;
   `mirrored`: the last first; `fill`: of which the number of taps is a multiple. Returns 0 where no memory is left. */
static int make_axis(AxisMemory *memory, Axis *axis, double begin, double extent, int inputs, int size, int mirrored, int fill) {
    double scale = extent / size;
    int outputs = (size + 3) / 4 * 4, shift = 14, taps = scale <= 1 ? fill : ((int)ceil(2 * scale) + fill) / fill * fill;
    if (!has_axis_memory(memory, outputs, taps)) return 0;
    if (scale <= 1) enlarge(memory, begin, scale, inputs, size, taps);
    else shift = shrink(memory, begin, scale, inputs, size, taps);
    if (mirrored) mirror_axis(memory, size, taps);
    for (int i = size; i < outputs; i++) {
        memory->first[i] = memory->first[size - 1];
        memcpy(memory->weights + (long)i * taps, memory->weights + (long)(size - 1) * taps, taps * sizeof *memory->weights);
    }
    *axis = (Axis){memory->first, memory->weights, taps, shift, NULL};
    if (scale <= 1 && fill == 4) {
        make_fours(axis, outputs, memory->fours);
        axis->fours = memory->fours;
    }
    return 1;
}
