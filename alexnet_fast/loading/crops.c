/* Of crops.py: stored samples to crops, each pixel touched once. A JPEG is decoded by libjpeg-turbo a few rows at a time,
   which are mirrored, centred and written to the batch while they are in the first-level cache. */

#include <signal.h>

#include "../jpeg.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* What all crops of a batch share. `kind` of the results: 0 uint8, 1 float32, 2 bfloat16. */
typedef struct { int crop, kind; } Out;

static void mirror(const uint8_t *in, uint8_t *out, int pixels) {
    int i = 0;
#ifdef __AVX2__
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
#ifdef __AVX2__
    if (((uintptr_t)out & 31) == 0)
        for (; i + 8 <= values; i += 8) {
            __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(in + i)));
            _mm256_stream_ps(out + i, _mm256_sub_ps(_mm256_cvtepi32_ps(wide), _mm256_loadu_ps(offset + i)));
        }
#endif
    for (; i < values; i++) out[i] = (float)in[i] - offset[i];
}

#ifdef __AVX2__
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
#ifdef __AVX2__
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

/* A page of a mapped file that the disk does not give, or that was cut off, is a SIGBUS for the thread that touches it,
   which goes on at its `way_out`. Without one it is not ours: it comes again, to who handled it before. */
static __thread sigjmp_buf *volatile way_out; /* volatile: what a handler sees */
static struct sigaction before;

static void leave(int number, siginfo_t *about, void *context) {
    static const struct sigaction end = {.sa_handler = SIG_DFL};
    static int handed_over;
    if (way_out) siglongjmp(*way_out, 1);
    sigaction(number, handed_over++ ? &end : &before, NULL);
}

/* Others may have put their handler over ours, as Python's faulthandler does. */
static void watch_pages(void) {
    struct sigaction now, ours = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGBUS, NULL, &now);
    if (now.sa_sigaction == leave) return;
    before = now;
    sigaction(SIGBUS, &ours, NULL);
}

static int is_readable(const volatile uint8_t *in, int64_t bytes) {
    enum { PAGE = 4096 }; /* none are smaller */
    sigjmp_buf out;
    if (sigsetjmp(out, 0)) { way_out = NULL; return 0; }
    way_out = &out;
    for (int64_t at = 0; at < bytes; at += PAGE) (void)in[at];
    if (bytes) (void)in[bytes - 1];
    way_out = NULL;
    return 1;
}

/* Which of `n` pieces of mapped files can be read; they are in memory then. */
void can_be_read(int n, const uint8_t *const *places, const int64_t *bytes, uint8_t *readable) {
    watch_pages();
    for (int i = 0; i < n; i++) readable[i] = is_readable(places[i], bytes[i]);
}

/* The place of a crop in an image of another length than the set's: `place` is one of 0 to `margin`. */
static int placed(int place, int margin, int free) {
    return margin > 0 ? (int)((2L * place * free + margin) / (2L * margin)) : 0;
}

static int refuse(Decoder *decoder, const char *why) {
    strcpy(decoder->message, why);
    lib.abort(&decoder->jpeg);
    return 0;
}

/* `take`: with our decoder of coefficients, which leaves what is odd to libjpeg's. */
static int decode(Decoder *decoder, int take, const uint8_t *data, long bytes, int side, const int32_t *corner, Out how,
                  const float *offset, uint8_t *turned, void *out) {
    Jpeg *jpeg = &decoder->jpeg;
    if (setjmp(decoder->failed)) { lib.abort(jpeg); return 0; }
    lib.mem_src(jpeg, data, bytes);
    lib.read_header(jpeg, 1);
    unsigned crop = how.crop, most = side;
    int small = jpeg->width < crop || jpeg->height < crop;
    if (small || jpeg->width > most || jpeg->height > most) /* which bounds memory and time too */
        return refuse(decoder, small ? "it is smaller than the crop" : "it is larger than the set's images");
    jpeg->out_colours = RGB;
    lib.start(jpeg);
    if (take) take_over(decoder);
    int top = placed(corner[0], side - how.crop, jpeg->height - how.crop);
    int left = placed(corner[1], side - how.crop, jpeg->width - how.crop);
    unsigned start = keep_columns(jpeg, left, left + how.crop);
    if (!has_rows(decoder, 3L * jpeg->out_width)) return refuse(decoder, "no memory is left");
    if (top) lib.skip(jpeg, top);
    for (int row = 0; row < how.crop;) {
        int wanted = how.crop - row, got = lib.read(jpeg, decoder->rows, wanted < ROWS ? wanted : ROWS);
        if (!got) return refuse(decoder, "it ends too early");
        for (int i = 0; i < got; i++) put_row(decoder->rows[i] + 3 * (left - start), how, offset, turned, out, row++);
    }
    lib.abort(jpeg); /* the rows below are of no use */
    return 1;
}

/* One sample, RGB pixels where `bytes` is -1, to its place in the batch. Returns 0, and why in `message`, where that
   cannot be. `decoder`: of JPEGs. */
static int put_image(Decoder *decoder, const uint8_t *stored, int64_t bytes, int side, const int32_t *corner, Out how,
                     const float *offset, uint8_t *turned, void *out, char *message) {
    sigjmp_buf cut_off;
    if (sigsetjmp(cut_off, 0)) {
        way_out = NULL;
        if (bytes >= 0) lib.abort(&decoder->jpeg);
        strcpy(message, "its file cannot be read any more");
        return 0;
    }
    way_out = &cut_off;
    int done = 1;
    if (bytes < 0) {
        const uint8_t *in = stored + 3 * ((long)corner[0] * side + corner[1]);
        for (int row = 0; row < how.crop; row++) put_row(in + 3L * row * side, how, offset, turned, out, row);
    } else {
        done = decode(decoder, 1, stored, bytes, side, corner, how, offset, turned, out) ||
               decode(decoder, 0, stored, bytes, side, corner, how, offset, turned, out);
        if (!done) memcpy(message, decoder->message, sizeof decoder->message);
    }
    way_out = NULL;
    return done;
}

/* `n` samples, RGB pixels (side, side, 3) where `bytes` is -1, else JPEGs, to `out` (n, crop, crop, 3): mirrored from the
   `upright`th on, less `offset` (n, 3) where `kind` is not 0. `corners` (n, 2): top and left. Returns the first that does
   not decode, and why in `message` (200 bytes), or -1. */
int crops(int n, const uint8_t *const *stored, const int64_t *bytes, int side, const int32_t *corners, int upright,
          const float *offset, int crop, int kind, uint8_t *out, char *message) {
    static const int widths[] = {1, 4, 2};
    Out how = {crop, kind};
    int values = 3 * crop, failed = -1, has_decoder = 0;
    uint8_t *turned = malloc(values + 64);
    float *offsets = malloc(values * sizeof *offsets + 64);
    Decoder decoder;
    watch_pages();
    if (!turned || !offsets) { strcpy(message, "no memory is left"); failed = 0; n = 0; }
    for (int i = 0; i < n && failed < 0; i++) {
        for (int j = 0; kind && j < values; j++) offsets[j] = offset[3 * i + j % 3];
        void *image = out + (long)i * crop * values * widths[kind];
        uint8_t *turn = i < upright ? NULL : turned;
        const int32_t *corner = corners + 2 * i;
        if (bytes[i] >= 0 && !has_decoder) has_decoder = create(&decoder, ignore);
        if (bytes[i] >= 0 && !has_decoder) { strcpy(message, "no decoder"); failed = i; break; }
        if (!put_image(&decoder, stored[i], bytes[i], side, corner, how, offsets, turn, image, message)) failed = i;
    }
    if (has_decoder) destroy(&decoder);
    free(turned);
    free(offsets);
#ifdef __AVX2__
    _mm_sfence();
#endif
    return failed;
}
