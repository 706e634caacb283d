#include "axis.h"

#include <math.h>
#include <stdlib.h>

#include "check.h"

static int up_to_four(int count) { return (count + 3) / 4 * 4; }

/* The inputs `*first` to `*end` of output `i`. */
static void find_inputs(int i, int old, double scale, double reach, int *first, int *end) {
    double centre = scale * (i + 0.5), begin = centre - reach + 0.5;
    *first = begin < 0 ? 0 : (int)begin;
    *end = centre + reach + 0.5 > old ? old : (int)(centre + reach + 0.5);
}

/* The weights of output `i`, whose sum is 1. Returns the largest. */
static double find_weights(int i, int old, double scale, double reach, int taps, double *weights) {
    int first, end;
    double centre = scale * (i + 0.5), sum = 0, largest = 0;
    find_inputs(i, old, scale, reach, &first, &end);
    for (int k = 0; k < taps; k++) {
        double weight = first + k < end ? 1 - fabs((first + k - centre + 0.5) / reach) : 0;
        sum += weights[k] = weight > 0 ? weight : 0;
    }
    for (int k = 0; k < taps; k++) {
        weights[k] /= sum;
        if (weights[k] > largest) largest = weights[k];
    }
    return largest;
}

FuzzAxis make_axis(int old, int new, int size) {
    double scale = (double)old / new, reach = scale > 1 ? scale : 1, largest = 0;
    int outputs = up_to_four(size), taps = 0, first, end, shift = 0;
    for (int i = 0; i < new; i++) {
        find_inputs(i, old, scale, reach, &first, &end);
        if (end - first > taps) taps = end - first;
    }
    taps = up_to_four(taps);
    double *weights = malloc(taps * sizeof *weights);
    FuzzAxis axis = {malloc(outputs * sizeof *axis.first), malloc((long)outputs * taps * sizeof *axis.weights), taps, 0};
    CHECK(weights && axis.first && axis.weights, "no memory is left");
    for (int i = 0; i < new; i++) largest = fmax(largest, find_weights(i, old, scale, reach, taps, weights));
    while (shift < 22 && (int)(0.5 + largest * (1 << (shift + 1))) < 1 << 15) shift++;
    axis.shift = shift;
    for (int i = 0; i < outputs; i++) {
        int output = (new - size) / 2 + (i < size ? i : size - 1);
        find_inputs(output, old, scale, reach, &axis.first[i], &end);
        find_weights(output, old, scale, reach, taps, weights);
        for (int k = 0; k < taps; k++) axis.weights[(long)i * taps + k] = weights[k] * (1 << shift) + 0.5;
    }
    free(weights);
    return axis;
}

void free_axis(FuzzAxis *axis) {
    free(axis->first);
    free(axis->weights);
}
