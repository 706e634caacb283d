/* Crops of stored YCbCr planes, 4:2:0: `side`^2 of Y, then (side/2)^2 of Cb and of Cr, JPEG's full range. */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One row of chroma to twice its width: each value twice (smooth 0), or 3/4 and 1/4 of the two nearest (1). */
static void widen(const uint8_t *near, const uint8_t *far, uint8_t *restrict out, int half, int smooth) {
    if (!smooth) { for (int i = 0; i < half; i++) out[2 * i] = out[2 * i + 1] = near[i]; return; }
    int16_t mix[1026];
    for (int i = 0; i < half; i++) mix[i + 1] = 3 * near[i] + far[i]; /* of 4 */
    mix[0] = mix[1]; mix[half + 1] = mix[half];
    for (int i = 0; i < half; i++) {
        out[2 * i] = (3 * mix[i + 1] + mix[i] + 8) >> 4;
        out[2 * i + 1] = (3 * mix[i + 1] + mix[i + 2] + 7) >> 4;
    }
}

static void convert(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr,
                    uint8_t *restrict r, uint8_t *restrict g, uint8_t *restrict b, int n) {
    int i = 0;
    const __m256i half = _mm256_set1_epi16(32), centre = _mm256_set1_epi16(128);
    for (; i + 16 <= n; i += 16) { /* coefficients of 64: 1.402 = 90, .344 = 22, .714 = 46, 1.772 = 113 */
        __m256i Y = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(y + i)));
        __m256i B = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(cb + i))), centre);
        __m256i R = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(cr + i))), centre);
        Y = _mm256_add_epi16(_mm256_slli_epi16(Y, 6), half);
        __m256i red = _mm256_srai_epi16(_mm256_adds_epi16(Y, _mm256_mullo_epi16(R, _mm256_set1_epi16(90))), 6);
        __m256i green = _mm256_srai_epi16(_mm256_subs_epi16(Y, _mm256_add_epi16(_mm256_mullo_epi16(B, _mm256_set1_epi16(22)),
            _mm256_mullo_epi16(R, _mm256_set1_epi16(46)))), 6);
        __m256i blue = _mm256_srai_epi16(_mm256_adds_epi16(Y, _mm256_mullo_epi16(B, _mm256_set1_epi16(113))), 6);
#define PUT(to, v) _mm_storeu_si128((void *)(to + i), _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)))
        PUT(r, red); PUT(g, green); PUT(b, blue);
    }
    for (; i < n; i++) abort(); /* 224 is a multiple of 16 */
}

static void interleave(const uint8_t *r, const uint8_t *g, const uint8_t *b, uint8_t *out, int n) {
    static int8_t m[9][16];
    if (!m[0][0] && !m[0][3])
        for (int v = 0; v < 3; v++) for (int c = 0; c < 3; c++) for (int k = 0; k < 16; k++) {
            int at = 16 * v + k;
            m[3 * v + c][k] = at % 3 == c ? at / 3 : -128;
        }
    for (int i = 0; i < n; i += 16) {
        __m128i R = _mm_loadu_si128((const void *)(r + i)), G = _mm_loadu_si128((const void *)(g + i)),
                B = _mm_loadu_si128((const void *)(b + i));
        for (int v = 0; v < 3; v++)
            _mm_storeu_si128((void *)(out + 3 * i + 16 * v), _mm_or_si128(_mm_or_si128(
                _mm_shuffle_epi8(R, _mm_loadu_si128((void *)m[3 * v])), _mm_shuffle_epi8(G, _mm_loadu_si128((void *)m[3 * v + 1]))),
                _mm_shuffle_epi8(B, _mm_loadu_si128((void *)m[3 * v + 2]))));
    }
}

static void put_float(const uint8_t *in, const float *offset, float *out, int values) { /* crops.c's */
    for (int i = 0; i + 8 <= values; i += 8) {
        __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i)));
        _mm256_stream_ps(out + i, _mm256_sub_ps(_mm256_cvtepi32_ps(wide), _mm256_loadu_ps(offset + i)));
    }
}

/* `kind`: 0 uint8 RGB, 1 float32 RGB less offset, 2 the planes of the crop alone, copied (for a device to convert;
   top and left are made even). `out`: n crops. */
void planes(int n, const uint8_t *const *stored, int side, const int32_t *corners, const float *offset, int crop,
            int kind, int smooth, uint8_t *out) {
    int values = 3 * crop, h = side / 2;
    uint8_t wide[2][1024 + 64], rgb[3][1024 + 64], row8[3 * 1024 + 64];
    float offsets[3 * 1024];
    for (int i = 0; i < n; i++) {
        for (int j = 0; kind == 1 && j < values; j++) offsets[j] = offset[3 * i + j % 3];
        int top = corners[2 * i], left = corners[2 * i + 1];
        const uint8_t *y = stored[i], *c[2] = {y + side * side, y + side * side + h * h};
        if (kind == 2) {
            top &= ~1; left &= ~1;
            uint8_t *to = out + (long)i * crop * crop * 3 / 2;
            for (int row = 0; row < crop; row++) memcpy(to + row * crop, y + (top + row) * side + left, crop);
            to += crop * crop;
            for (int p = 0; p < 2; p++, to += crop * crop / 4)
                for (int row = 0; row < crop / 2; row++)
                    memcpy(to + row * crop / 2, c[p] + (top / 2 + row) * h + left / 2, crop / 2);
            continue;
        }
        int first = left / 2, last = (left + crop - 1) / 2, odd = left & 1;
        for (int row = 0; row < crop; row++) {
            int at = top + row, near = at / 2, far = at & 1 ? (near + 1 < h ? near + 1 : near) : (near ? near - 1 : near);
            for (int p = 0; p < 2; p++)
                if (smooth || row == 0 || !(at & 1))
                    widen(c[p] + near * h + first, c[p] + far * h + first, wide[p], last - first + 1, smooth);
            convert(y + at * side + left, wide[0] + odd, wide[1] + odd, rgb[0], rgb[1], rgb[2], crop);
            uint8_t *to = kind ? row8 : out + ((long)i * crop + row) * values;
            interleave(rgb[0], rgb[1], rgb[2], to, crop);
            if (kind) put_float(row8, offsets, (float *)out + ((long)i * crop + row) * values, values);
        }
    }
    _mm_sfence();
}
