/* Sums over pixels, of which a set's mean and covariance are computed. */

#include <stdint.h>

#include "native.h"

/* Adds up every `step`th pixel in both directions, and the products of its colours (3, 3). A row's sums fit into int. */
KERNEL(void, pixel_sums)(const uint8_t *image, int height, int width, int step, int64_t *total, int64_t *products) {
    for (long i = 0; i < height; i += step) {
        const uint8_t *row = image + 3L * width * i;
        int r = 0, g = 0, b = 0, rr = 0, gg = 0, bb = 0, rg = 0, rb = 0, gb = 0;
        for (const uint8_t *at = row; at < row + 3L * width; at += 3 * step) {
            r += at[0], g += at[1], b += at[2];
            rr += at[0] * at[0], gg += at[1] * at[1], bb += at[2] * at[2];
            rg += at[0] * at[1], rb += at[0] * at[2], gb += at[1] * at[2];
        }
        const int sums[] = {r, g, b}, pairs[] = {rr, rg, rb, rg, gg, gb, rb, gb, bb};
        for (int j = 0; j < 3; j++) total[j] += sums[j];
        for (int j = 0; j < 9; j++) products[j] += pairs[j];
    }
}
