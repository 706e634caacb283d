/* The middle of a resized image, a square or all of it, row by row: the arithmetic of torch's antialiased uint8
   interpolation, so that both give the same bytes. Triangle weights are 16-bit integers; rows come first, rounded to uint8
   in between. */

#include <stdlib.h>
#include <string.h>

#include "header.h"
#include "libjpeg.h"
#include "native.h"
#ifdef HAS_AVX2
#include <immintrin.h>
#endif

#ifdef HAS_AVX2

/* Two 16-bit weights, for every pair of values. */
static inline __m256i two(const int16_t *w) { int32_t pair; memcpy(&pair, w, 4); return _mm256_set1_epi32(pair); }

/* Four rows of RGB at once, from input `start` on, four outputs at a time. */
static void shrink_rows(const uint8_t *const *in, int start, uint8_t *out, long stride, int size, Axis x) {
    const __m256i left = _mm256_broadcastsi128_si256(_mm_setr_epi8( /* of two pixels, as 16 bits: r r g g b b */
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i right = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const __m256i rgb = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const __m256i half = _mm256_set1_epi32(1 << (x.shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(x.shift);
    for (int i = 0; i < size; i += 4) {
        __m256i sum[2][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const int16_t *w = x.weights + (i + j) * x.taps;
            long at = 3L * (x.first[i + j] - start);
            sum[0][j] = sum[1][j] = half;
            for (int k = 0; k < x.taps; k += 4, w += 4, at += 12)
#pragma GCC unroll 2
                for (int l = 0; l < 2; l++) {
                    __m256i four = _mm256_inserti128_si256(
                        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(in[2 * l] + at))),
                        _mm_loadu_si128((const __m128i *)(in[2 * l + 1] + at)), 1);
                    sum[l][j] = _mm256_add_epi32(sum[l][j], _mm256_add_epi32(
                        _mm256_madd_epi16(_mm256_shuffle_epi8(four, left), two(w)),
                        _mm256_madd_epi16(_mm256_shuffle_epi8(four, right), two(w + 2))));
                }
        }
#pragma GCC unroll 2
        for (int l = 0; l < 2; l++) {
            for (int j = 0; j < 4; j++) sum[l][j] = _mm256_sra_epi32(sum[l][j], shift);
            __m256i bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(
                _mm256_packus_epi32(sum[l][0], sum[l][1]), _mm256_packus_epi32(sum[l][2], sum[l][3])), rgb);
            _mm_storeu_si128((__m128i *)(out + stride * 2 * l + 3 * i), _mm256_castsi256_si128(bytes));
            _mm_storeu_si128((__m128i *)(out + stride * (2 * l + 1) + 3 * i), _mm256_extracti128_si256(bytes, 1));
        }
    }
}

/* As `shrink_rows`, by `x.fours`: the inputs of four outputs lie in 16 bytes. */
static void enlarge_rows(const uint8_t *const *in, int start, uint8_t *out, long stride, int size, Axis x) {
#ifdef HAS_AVX512
    const __m128i rgb = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m512i half = _mm512_set1_epi32(1 << (x.shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(x.shift);
    for (int i = 0; i < size; i += 4) {
        const Four *four = x.fours + i / 4;
        const __m512i places = _mm512_load_si512(four->places), weights = _mm512_load_si512(four->weights);
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++) {
            __m512i pixels = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(in[l] + 3L * (four->first - start))));
            __m512i sum = _mm512_add_epi32(half, _mm512_madd_epi16(_mm512_shuffle_epi8(pixels, places), weights));
            __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_sra_epi32(sum, shift));
            _mm_storeu_si128((__m128i *)(out + stride * l + 3 * i), _mm_shuffle_epi8(bytes, rgb));
        }
    }
#else
    const __m256i rgb = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1));
    const __m256i half = _mm256_set1_epi32(1 << (x.shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(x.shift);
    for (int i = 0; i < size; i += 4) {
        const Four *four = x.fours + i / 4;
        const __m256i *places = (const __m256i *)four->places, *weights = (const __m256i *)four->weights;
#pragma GCC unroll 2
        for (int l = 0; l < 4; l += 2) {
            __m256i sum[2][2];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                __m256i pixels = _mm256_broadcastsi128_si256(
                    _mm_loadu_si128((const __m128i *)(in[l + j / 2] + 3L * (four->first - start))));
                sum[j / 2][j % 2] = _mm256_sra_epi32(_mm256_add_epi32(half, _mm256_madd_epi16(
                    _mm256_shuffle_epi8(pixels, places[j % 2]), weights[j % 2])), shift);
            }
            /* Of the rows l, l + 1: outputs 0 2 0 2 in the lower half, 1 3 1 3 in the upper. */
            __m256i bytes = _mm256_packus_epi16(
                _mm256_packus_epi32(sum[0][0], sum[0][1]), _mm256_packus_epi32(sum[1][0], sum[1][1]));
            bytes = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0xd8), rgb);
            _mm_storeu_si128((__m128i *)(out + stride * l + 3 * i), _mm256_castsi256_si128(bytes));
            _mm_storeu_si128((__m128i *)(out + stride * (l + 1) + 3 * i), _mm256_extracti128_si256(bytes, 1));
        }
    }
#endif
}

/* One row of `length` bytes from `taps` rows below each other, 32 at a time. */
static void shrink_column(const uint8_t *in, long stride, uint8_t *out, int length, const int16_t *w, Axis y) {
    const __m256i none = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (y.shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(y.shift);
    for (int j = 0; j < length; j += 32) {
        __m256i sum[4] = {half, half, half, half};
        for (int k = 0; k < y.taps; k += 2) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(in + k * stride + j));
            __m256i b = _mm256_loadu_si256((const __m256i *)(in + (k + 1) * stride + j));
            __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b), pair = two(w + k);
            sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, none), pair));
            sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, none), pair));
            sum[2] = _mm256_add_epi32(sum[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, none), pair));
            sum[3] = _mm256_add_epi32(sum[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, none), pair));
        }
        for (int k = 0; k < 4; k++) sum[k] = _mm256_sra_epi32(sum[k], shift);
        _mm256_storeu_si256((__m256i *)(out + j), _mm256_packus_epi16(
            _mm256_packus_epi32(sum[0], sum[1]), _mm256_packus_epi32(sum[2], sum[3])));
    }
}

/* As `shrink_column`, of two rows whose weights are 14 bits and together 1: `b` and a part of the difference, rounded alike. */
static void enlarge_column(const uint8_t *a, const uint8_t *b, uint8_t *out, int length, int weight) {
    const __m256i none = _mm256_setzero_si256(), part = _mm256_set1_epi16(2 * weight);
    for (int j = 0; j < length; j += 32) {
        __m256i upper = _mm256_loadu_si256((const __m256i *)(a + j)), lower = _mm256_loadu_si256((const __m256i *)(b + j));
        __m256i half[2] = {_mm256_unpacklo_epi8(lower, none), _mm256_unpackhi_epi8(lower, none)};
        half[0] = _mm256_add_epi16(half[0], _mm256_mulhrs_epi16(
            _mm256_sub_epi16(_mm256_unpacklo_epi8(upper, none), half[0]), part));
        half[1] = _mm256_add_epi16(half[1], _mm256_mulhrs_epi16(
            _mm256_sub_epi16(_mm256_unpackhi_epi8(upper, none), half[1]), part));
        _mm256_storeu_si256((__m256i *)(out + j), _mm256_packus_epi16(half[0], half[1]));
    }
}

/* One row of the middle. */
static void make_row(const uint8_t *in, long stride, uint8_t *out, int length, const int16_t *w, Axis y) {
    int is_exact = y.taps == 2 && y.shift == 14 && w[0] + w[1] == 1 << 14;
    if (is_exact && w[0] < 1 << 14) enlarge_column(in, in + stride, out, length, w[0]);
    else shrink_column(in, stride, out, length, w, y);
}

#else

static uint8_t to_byte(int32_t value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

static void shrink_rows(const uint8_t *const *in, int start, uint8_t *out, long stride, int size, Axis x) {
    for (int row = 0; row < 4; row++)
        for (int i = 0; i < size; i++) {
            const uint8_t *from = in[row] + 3L * (x.first[i] - start);
            const int16_t *w = x.weights + (long)i * x.taps;
            int32_t sum[3] = {1 << (x.shift - 1), 1 << (x.shift - 1), 1 << (x.shift - 1)};
            for (int k = 0; k < x.taps; k++)
                for (int c = 0; c < 3; c++) sum[c] += w[k] * from[3 * k + c];
            for (int c = 0; c < 3; c++) out[stride * row + 3 * i + c] = to_byte(sum[c] >> x.shift);
        }
}

static void enlarge_rows(const uint8_t *const *in, int start, uint8_t *out, long stride, int size, Axis x) {
    shrink_rows(in, start, out, stride, size, x);
}

static void make_row(const uint8_t *in, long stride, uint8_t *out, int length, const int16_t *w, Axis y) {
    for (int j = 0; j < length; j++) {
        int32_t sum = 1 << (y.shift - 1);
        for (int k = 0; k < y.taps; k++) sum += w[k] * in[k * stride + j];
        out[j] = to_byte(sum >> y.shift);
    }
}

#endif

/* What is made: `wide` x `high` pixels. */
typedef struct { int wide, high; } Size;

/* Memory for rows at their new width, which is used again. */
typedef struct { uint8_t *rows; long room; } Window;

/* Of the image, the `lines` from `top` on are what the middle needs; `shrunk` of them came, at their new width, and those
   from `kept` on lie in `window`, which has room for `room`; `done` rows of the middle are finished. The first `direct` of
   them are written to `out`, the others to `line`, for `put`. */
typedef struct Middle Middle;
struct Middle {
    Axis x, y;
    Size size;
    int top, lines, shrunk, kept, room, done, direct;
    long stride;
    Window *window;
    uint8_t *out, *line;
    void (*put)(const Middle *, int row);
    const void *job;
};

enum { KEPT = 32, SPARE_BYTES = 32 }; /* rows; bytes: vectors reach past the end of what they read and write */

/* Of an image of `height`; `out` has SPARE_BYTES behind its first `direct` rows. Returns 0 where no memory is left. */
static int begin_middle(Middle *middle, Window *window, int height, Size size, uint8_t *out, int direct, Axis x, Axis y) {
    int top = y.first[0], end = y.first[size.high - 1] + y.taps;
    *middle = (Middle){.x = x, .y = y, .size = size, .top = top, .lines = (end < height ? end : height) - top,
                       .room = KEPT + 4 + y.taps, .direct = direct, .stride = 3L * size.wide + SPARE_BYTES,
                       .window = window, .out = out};
    long bytes = (middle->room + y.taps) * middle->stride;
    if (window->room < bytes) {
        free(window->rows);
        window->rows = malloc(bytes);
        window->room = window->rows ? bytes : 0;
    }
    return window->rows != NULL;
}

/* Makes room for four rows: those before the next output's first are of no use any more. */
static void drop_rows(Middle *to) {
    if (to->shrunk + 4 - to->kept <= to->room) return;
    int next = to->y.first[to->done < to->size.high ? to->done : to->size.high - 1] - to->top;
    int first = next < to->shrunk ? next : to->shrunk;
    memmove(to->window->rows, to->window->rows + to->stride * (first - to->kept), to->stride * (to->shrunk - first));
    to->kept = first;
}

/* The next four rows, from input `start` on; of the middle, what they complete, while its inputs are in the cache. */
static void add_rows(Middle *to, const uint8_t *const *in, int start) {
    int wide = to->size.wide;
    drop_rows(to);
    uint8_t *rows = to->window->rows + to->stride * (to->shrunk - to->kept);
    if (to->x.fours) enlarge_rows(in, start, rows, to->stride, wide, to->x);
    else shrink_rows(in, start, rows, to->stride, wide, to->x);
    to->shrunk += 4;
    for (; to->done < to->size.high; to->done++) {
        int first = to->y.first[to->done] - to->top, i = to->done;
        if (to->shrunk < to->lines && to->shrunk < first + to->y.taps) return;
        uint8_t *out = i < to->direct ? to->out + 3L * wide * i : to->line;
        make_row(to->window->rows + to->stride * (first - to->kept), to->stride, out, 3 * wide,
                 to->y.weights + (long)i * to->y.taps, to->y);
        if (i >= to->direct) to->put(to, i);
    }
}

/* Of a whole image. Returns 0 where no memory is left. */
KERNEL(int, middle)(const uint8_t *image, int width, int height, int wide, int high, uint8_t *out,
           const int32_t *x_first, const int16_t *x_weights, int x_taps, int x_shift,
           const int32_t *y_first, const int16_t *y_weights, int y_taps, int y_shift) {
    Axis x = {x_first, x_weights, x_taps, x_shift, NULL}, y = {y_first, y_weights, y_taps, y_shift, NULL};
    Middle middle;
    Window window = {0};
    long row = 3L * width, end = row + 3L * x_taps + 16;
    uint8_t *ends = malloc(4 * end); /* copies of rows that too little lies behind */
    int complete = begin_middle(&middle, &window, height, (Size){wide, high}, out, high, x, y) && ends;
    for (int i = 0; complete && i < middle.lines; i += 4) {
        const uint8_t *in[4];
        for (int j = 0; j < 4; j++) {
            int last = i + j >= middle.lines - 1;
            in[j] = image + row * (middle.top + (last ? middle.lines - 1 : i + j));
            if (last || width < 16) in[j] = memcpy(ends + end * j, in[j], row);
        }
        add_rows(&middle, in, 0);
    }
    free(ends);
    free(window.rows);
    return complete;
}

/* What `jpeg_middle` makes: of the image of `width` x `height` pixels, as it is decoded at `eighths` / 8. */
typedef struct { const uint8_t *data; long bytes; int width, height, eighths; Middle *to; } Shrink;

/* After libjpeg's start: whether a progressive JPEG's scans leave bits of coefficients out. libjpeg smooths such an image,
   and libjpeg-turbo since 3.0.1 otherwise than before. */
static int lacks_detail(const Jpeg *jpeg) {
    const int *missing = jpeg->progressive ? jpeg->coefficient_bits : NULL; /* of each component 64; -1: all */
    for (int i = 0; missing && i < 64 * jpeg->components; i++)
        if (missing[i]) return 1;
    return 0;
}

/* Between `create_decoder` and `destroy_decoder`. */
static int decode_middle(Decoder *decoder, const Shrink *shrink) {
    Jpeg *jpeg = &decoder->jpeg;
    Middle *to = shrink->to;
    if (setjmp(decoder->failed)) return 0;
    libjpeg.mem_src(jpeg, shrink->data, shrink->bytes);
    libjpeg.read_header(jpeg, 1);
    if (jpeg->jpeg_colours < 1 || jpeg->jpeg_colours > 3) return 0; /* neither grey, RGB nor YCbCr */
    jpeg->out_colours = RGB;
    jpeg->scale_num = shrink->eighths;
    jpeg->scale_denom = 8;
    libjpeg.start(jpeg);
    int taken = replace_entropy_decoder(decoder);
    if (jpeg->out_width != (unsigned)shrink->width || jpeg->out_height != (unsigned)shrink->height) return 0;
    if (lacks_detail(jpeg)) return 0; /* the same bytes, whichever libjpeg Pillow brings */
    int start = keep_columns(jpeg, to->x.first[0], to->x.first[to->size.wide - 1] + to->x.taps);
    if (!has_rows(decoder->scratch, 3L * (jpeg->out_width + to->x.taps))) return 0;
    uint8_t **rows = decoder->scratch->rows;
    if (to->top) libjpeg.skip(jpeg, to->top);
    for (int i = 0; i < to->lines; i += ROWS) {
        int wanted = to->lines - i < ROWS ? to->lines - i : ROWS;
        for (int got = 0, more; got < wanted; got += more)
            if (!(more = libjpeg.read(jpeg, rows + got, wanted - got))) return 0;
        add_rows(to, (const uint8_t *const *)rows, start);
    }
    /* Damage may lie below too. The last row is read, as to skip it would end the reading. */
    int below = shrink->height - to->top - to->lines;
    if (below > 1) libjpeg.skip(jpeg, below - 1);
    if (below && !libjpeg.read(jpeg, rows, 1)) return 0;
    return (!taken || hand_back(decoder)) && libjpeg.finish(jpeg);
}

/* Of a JPEG, decoded at `eighths` / 8, to which `width` and `height` refer. Returns 0 where it is of another size or kind,
   lacks detail, or libjpeg warns of anything. */
KERNEL(int, jpeg_middle)(const uint8_t *data, long bytes, int eighths, int width, int height, int wide, int high,
                         uint8_t *out, const int32_t *x_first, const int16_t *x_weights, int x_taps, int x_shift,
                         const int32_t *y_first, const int16_t *y_weights, int y_taps, int y_shift) {
    Axis x = {x_first, x_weights, x_taps, x_shift, NULL}, y = {y_first, y_weights, y_taps, y_shift, NULL};
    Header header = read_header(data, bytes);
    char message[200];
    if (!may_be_decoded(&header, message) || (header.width * eighths + 7) / 8 != width ||
        (header.height * eighths + 7) / 8 != height)
        return 0;
    Middle middle;
    Window window = {0};
    Scratch scratch = {0};
    Shrink shrink = {data, bytes, width, height, eighths, &middle};
    Decoder decoder;
    int complete = 0;
    if (begin_middle(&middle, &window, height, (Size){wide, high}, out, high, x, y) && create_decoder(&decoder, &scratch)) {
        complete = decode_middle(&decoder, &shrink);
        destroy_decoder(&decoder);
    }
    free_scratch(&scratch);
    free(window.rows);
    return complete;
}
