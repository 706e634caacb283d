/* Stored samples to crops, each pixel touched once. A JPEG is decoded by libjpeg-turbo a few rows at a time, which are
   mirrored, centred and written to the batch while they are in the first-level cache. */

#include <stdlib.h>
#include <string.h>

#include "header.h"
#include "libjpeg.h"
#include "native.h"
#include "pages.h"
#ifdef HAS_AVX2
#include <immintrin.h>
#endif

/* What all crops of a batch share. `kind` of the results: 0 uint8, 1 float32, 2 bfloat16. */
typedef struct { int crop, kind; } Out;

static void mirror(const uint8_t *in, uint8_t *out, int pixels) {
    int i = 0;
#ifdef HAS_AVX2
    /* Five pixels at a time; the 16th byte is written again by the next five. */
    const __m128i turn = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
    for (; i + 6 <= pixels; i += 5)
        _mm_storeu_si128((__m128i *)(out + 3 * i), _mm_shuffle_epi8(
            _mm_loadu_si128((const __m128i *)(in + 3 * (pixels - 5 - i) - 1)), turn));
#endif
    for (; i < pixels; i++) memcpy(out + 3 * i, in + 3 * (pixels - 1 - i), 3);
}

/* Floats go past the caches where they are aligned: a batch does not fit into them. */

static void put_float(const uint8_t *in, const float *offset, float *out, int values) {
    int i = 0;
#ifdef HAS_AVX2
    if (((uintptr_t)out & 31) == 0)
        for (; i + 8 <= values; i += 8) {
            __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i)));
            _mm256_stream_ps(out + i, _mm256_sub_ps(_mm256_cvtepi32_ps(wide), _mm256_loadu_ps(offset + i)));
        }
#endif
    for (; i < values; i++) out[i] = (float)in[i] - offset[i];
}

#ifdef HAS_AVX2
/* Eight values, rounded to bfloat16: the upper halves of 32 bits. */
static inline __m256i eight_bfloats(const uint8_t *in, const float *offset) {
    __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)in));
    __m256i bits = _mm256_castps_si256(_mm256_sub_ps(_mm256_cvtepi32_ps(wide), _mm256_loadu_ps(offset)));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
#endif

static void put_bfloat(const uint8_t *in, const float *offset, uint16_t *out, int values) {
    int i = 0;
#ifdef HAS_AVX2
    if (((uintptr_t)out & 31) == 0)
        for (; i + 16 <= values; i += 16) {
            __m256i low = _mm256_srli_epi32(eight_bfloats(in + i, offset + i), 16);
            __m256i high = _mm256_srli_epi32(eight_bfloats(in + i + 8, offset + i + 8), 16);
            __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
            _mm256_stream_si256((__m256i *)(out + i), both);
        }
#endif
    for (; i < values; i++) { /* to the nearest, ties to even */
        float centred = (float)in[i] - offset[i];
        uint32_t bits;
        memcpy(&bits, &centred, 4);
        out[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
}

/* One row of a crop, from the pixels `in` to row `row` of `out`. `offset`: the colour to subtract, once a pixel;
   `turned`: where the row is mirrored, or NULL. */
static void put_row(const uint8_t *in, Out how, const float *offset, uint8_t *turned, void *out, int row) {
    int values = 3 * how.crop;
    long at = (long)row * values;
    if (turned) {
        mirror(in, how.kind ? turned : (uint8_t *)out + at, how.crop);
        in = turned;
    }
    if (how.kind == 1) put_float(in, offset, (float *)out + at, values);
    else if (how.kind == 2) put_bfloat(in, offset, (uint16_t *)out + at, values);
    else if (!turned) memcpy((uint8_t *)out + at, in, values);
}

/* The place of a crop in an image of another length than the set's: `place` is one of 0 to `margin`. */
static int placed(int place, int margin, int free) {
    return margin > 0 ? (int)((2L * place * free + margin) / (2L * margin)) : 0;
}

/* One crop to make: of `data`, in an image of `side` pixels, its top and left corner in `corner`, to `out`. */
typedef struct {
    const uint8_t *data;
    int64_t bytes; /* -1: RGB pixels (side, side, 3), else a JPEG */
    int side;
    const int32_t *corner;
    Out how;
    const float *offset;
    uint8_t *turned;
    void *out;
} Crop;

static int refuse(Decoder *decoder, const char *why) {
    strcpy(decoder->message, why);
    return 0;
}

/* Between `create_decoder` and `destroy_decoder`. `ours`: coefficients are decoded by huffman.c where it can. */
static int decode_rows(Decoder *decoder, const Crop *crop, int ours) {
    Jpeg *jpeg = &decoder->jpeg;
    int size = crop->how.crop;
    if (setjmp(decoder->failed)) return 0;
    libjpeg.mem_src(jpeg, crop->data, crop->bytes);
    libjpeg.read_header(jpeg, 1);
    jpeg->out_colours = RGB;
    libjpeg.start(jpeg);
    if (ours) replace_entropy_decoder(decoder);
    int top = placed(crop->corner[0], crop->side - size, jpeg->height - size);
    int left = placed(crop->corner[1], crop->side - size, jpeg->width - size);
    unsigned start = keep_columns(jpeg, left, left + size);
    if (!has_rows(decoder->scratch, 3L * jpeg->out_width)) return refuse(decoder, "no memory is left");
    uint8_t **rows = decoder->scratch->rows;
    if (top) libjpeg.skip(jpeg, top);
    for (int row = 0; row < size;) { /* the rows below are of no use */
        int wanted = size - row, got = libjpeg.read(jpeg, rows, wanted < ROWS ? wanted : ROWS);
        if (!got) return refuse(decoder, "it ends too early");
        for (int i = 0; i < got; i++)
            put_row(rows[i] + 3 * (left - start), crop->how, crop->offset, crop->turned, crop->out, row++);
    }
    return 1;
}

/* Whether the JPEG may be decoded, and is of a size that the crop fits into. Else why not in `message`. */
static int fits(const Crop *crop, char *message) {
    Header header = read_header(crop->data, crop->bytes);
    if (!may_be_decoded(&header, message)) return 0;
    int shorter = header.height < header.width ? header.height : header.width;
    int longer = header.height + header.width - shorter;
    if (shorter >= crop->how.crop && longer <= crop->side) return 1;
    strcpy(message, shorter < crop->how.crop ? "it is smaller than the crop" : "it is larger than the set's images");
    return 0;
}

static int decode_crop(Decoder *decoder, const Crop *crop, char *message) {
    if (!fits(crop, message)) return 0;
    renew_decoder(decoder);
    int done = decode_rows(decoder, crop, 1);
    if (!done && decoder->scan.copy) { /* libjpeg's own decoder of coefficients is to judge */
        renew_decoder(decoder);
        done = decode_rows(decoder, crop, 0);
    }
    if (!done) memcpy(message, decoder->message, sizeof decoder->message);
    return done;
}

/* Returns 0, and why in `message`, where the sample cannot be read or decoded. */
static int put_crop(Decoder *decoder, const Crop *crop, char *message) {
    sigjmp_buf cut_off;
    if (sigsetjmp(cut_off, 0)) {
        way_out = NULL;
        strcpy(message, "its file cannot be read any more");
        return 0;
    }
    way_out = &cut_off;
    int done = 1;
    if (crop->bytes < 0) {
        const uint8_t *in = crop->data + 3 * ((long)crop->corner[0] * crop->side + crop->corner[1]);
        for (int row = 0; row < crop->how.crop; row++)
            put_row(in + 3L * row * crop->side, crop->how, crop->offset, crop->turned, crop->out, row);
    } else done = decode_crop(decoder, crop, message);
    way_out = NULL;
    return done;
}

/* `n` samples, RGB pixels (side, side, 3) where `bytes` is -1, else JPEGs, to `out` (n, crop, crop, 3): mirrored from the
   `upright`th on, less `offset` (n, 3) where `kind` is not 0. `corners` (n, 2): top and left. Returns the first that does
   not decode, and why in `message` (200 bytes), or -1. */
KERNEL(int, crops)(int n, const uint8_t *const *stored, const int64_t *bytes, int side, const int32_t *corners, int upright,
                   const float *offset, int crop, int kind, uint8_t *out, char *message) {
    static const int widths[] = {1, 4, 2};
    int values = 3 * crop, failed = -1;
    uint8_t *turned = malloc(values + 64);
    float *offsets = malloc(values * sizeof *offsets + 64);
    Scratch scratch = {0};
    Decoder decoder = {0};
    int has_decoder = 0;
    watch_pages();
    if (!turned || !offsets) { strcpy(message, "no memory is left"); failed = 0; n = 0; }
    for (int i = 0; i < n && failed < 0; i++) {
        for (int j = 0; kind && j < values; j++) offsets[j] = offset[3 * i + j % 3];
        Crop one = {stored[i], bytes[i], side, corners + 2 * i, {crop, kind}, offsets, i < upright ? NULL : turned,
                    out + (long)i * crop * values * widths[kind]};
        if (bytes[i] >= 0 && !has_decoder) has_decoder = create_decoder(&decoder, &scratch);
        if (bytes[i] >= 0 && !has_decoder) { strcpy(message, "no memory is left"); failed = i; break; }
        if (!put_crop(&decoder, &one, message)) failed = i;
    }
    destroy_decoder(&decoder);
    free_scratch(&scratch);
    free(turned);
    free(offsets);
#ifdef HAS_AVX2
    _mm_sfence();
#endif
    return failed;
}
