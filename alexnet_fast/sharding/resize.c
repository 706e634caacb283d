#ifdef __AVX2__ /* else there is nothing to call */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Two 16-bit weights, for every pair of values. */
static inline __m256i two(const int16_t *w) { int32_t pair; memcpy(&pair, w, 4); return _mm256_set1_epi32(pair); }

/* Each output's first input and its weights. Their number is a multiple of 4, their scale 2^shift. */
typedef struct { const int32_t *first; const int16_t *weights; int taps, shift; } Axis;

/* Two rows of RGB at once, four outputs at a time. */
static void shrink_rows(const uint8_t *in0, const uint8_t *in1, uint8_t *out0, uint8_t *out1, int size, Axis x) {
    const __m256i left = _mm256_broadcastsi128_si256(_mm_setr_epi8( /* of two pixels, as 16 bits: r r g g b b */
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i right = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const __m256i rgb = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m256i half = _mm256_set1_epi32(1 << (x.shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(x.shift);
    for (int i = 0; i < size; i += 4) {
        __m256i sum[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int16_t *w = x.weights + (i + j) * x.taps;
            long at = 3L * x.first[i + j];
            sum[j] = half;
            for (int k = 0; k < x.taps; k += 4, w += 4, at += 12) {
                __m256i four = _mm256_inserti128_si256(
                    _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(in0 + at))),
                    _mm_loadu_si128((const __m128i *)(in1 + at)), 1);
                sum[j] = _mm256_add_epi32(sum[j], _mm256_add_epi32(
                    _mm256_madd_epi16(_mm256_shuffle_epi8(four, left), two(w)),
                    _mm256_madd_epi16(_mm256_shuffle_epi8(four, right), two(w + 2))));
            }
            sum[j] = _mm256_sra_epi32(sum[j], shift);
        }
        __m256i bytes = _mm256_shuffle_epi8(
            _mm256_packus_epi16(_mm256_packus_epi32(sum[0], sum[1]), _mm256_packus_epi32(sum[2], sum[3])), rgb);
        _mm_storeu_si128((__m128i *)(out0 + 3 * i), _mm256_castsi256_si128(bytes));
        _mm_storeu_si128((__m128i *)(out1 + 3 * i), _mm256_extracti128_si256(bytes, 1));
    }
}

/* One row of `length` bytes from `taps` rows below each other, 16 at a time. */
static void shrink_column(const uint8_t *in, long stride, uint8_t *out, int length, const int16_t *w, Axis y) {
    const __m128i shift = _mm_cvtsi32_si128(y.shift);
    for (int j = 0; j < length; j += 16) {
        __m256i low = _mm256_set1_epi32(1 << (y.shift - 1)), high = low;
        for (int k = 0; k < y.taps; k += 2) {
            __m128i a = _mm_loadu_si128((const __m128i *)(in + k * stride + j));
            __m128i b = _mm_loadu_si128((const __m128i *)(in + (k + 1) * stride + j));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)), two(w + k)));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)), two(w + k)));
        }
        __m256i words = _mm256_packus_epi32(_mm256_sra_epi32(low, shift), _mm256_sra_epi32(high, shift));
        words = _mm256_permute4x64_epi64(words, 0xd8);
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(out + j), bytes);
    }
}

/* The `lines` of the image from `top` on are what the square needs. Vectors reach past the end of what they read and
   write, so `out` has 16 bytes to spare; `rows` holds lines + 1 + y_taps rows of stride 3 * size + 16; `ends` two of
   `end`, 3 * (width + x_taps) + 16, for those input rows that too little lies behind. */
void square(const uint8_t *image, int width, int top, int lines, int size, uint8_t *rows, uint8_t *ends, uint8_t *out,
            const int32_t *x_first, const int16_t *x_weights, int x_taps, int x_shift,
            const int32_t *y_first, const int16_t *y_weights, int y_taps, int y_shift) {
    Axis x = {x_first, x_weights, x_taps, x_shift}, y = {y_first, y_weights, y_taps, y_shift};
    long row = 3L * width, stride = 3L * size + 16, end = row + 3L * x_taps + 16;
    for (int i = 0; i < lines; i += 2) {
        const uint8_t *in[2];
        for (int j = 0; j < 2; j++) {
            int last = i + j >= lines - 1;
            in[j] = image + row * (top + (last ? lines - 1 : i + j));
            if (last || width < 16) in[j] = memcpy(ends + end * j, in[j], row);
        }
        shrink_rows(in[0], in[1], rows + stride * i, rows + stride * (i + 1), size, x);
    }
    for (int i = 0; i < size; i++) {
        const uint8_t *in = rows + stride * (y_first[i] - top);
        shrink_column(in, stride, out + 3L * size * i, 3 * size, y_weights + i * y_taps, y);
    }
}
#endif
