/* Stored samples to crops, each pixel touched once. A JPEG is decoded by libjpeg-turbo a few rows at a time, which are
   resized where they are to be, mirrored, centred and written to the batch while they are in the cache. */

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

/* What is used again for each crop of a call. `line`: room for a row of a crop; `offsets`: what is subtracted from one. */
typedef struct {
    Scratch scratch;
    AxisMemory x, y;
    Window window;
    uint8_t *line;
    float *offsets;
    Decoder decoder;
    int has_decoder;
} Tools;

/* In pixels of the image that it is in. */
typedef struct { int top, left, height, width; } Box;

/* One crop to make, to `out`: of `box` of `data`, an image of the height and width `frame`. */
typedef struct {
    const uint8_t *data;
    int64_t bytes; /* -1: RGB pixels, else a JPEG */
    const int32_t *frame;
    Box box;
    Out how;
    int is_mirrored;
    void *out;
    Tools *tools;
} Crop;

static int is_resized(const Crop *crop) { return crop->box.height != crop->how.crop || crop->box.width != crop->how.crop; }

static int refuse(Decoder *decoder, const char *why) {
    strcpy(decoder->message, why);
    return 0;
}

static void put_cut_row(const Crop *crop, const uint8_t *in, int row) {
    put_row(in, crop->how, crop->tools->offsets, crop->is_mirrored ? crop->tools->line : NULL, crop->out, row);
}

/* A row that was resized, and mirrored with that. */
static void put_resized_row(const Middle *middle, int row) {
    const Crop *crop = middle->job;
    put_row(middle->line, crop->how, crop->tools->offsets, NULL, crop->out, row);
}

/* A stretch of a side, from `begin` on, of an image that is decoded at `eighths` / 8: pixels `first` to `end`. */
typedef struct { double begin, extent; int first, end; } Stretch;

static Stretch stretch_of(int begin, int length, int eighths) {
    int first = begin * eighths / 8;
    return (Stretch){begin * eighths / 8.0 - first, length * eighths / 8.0, first, ((begin + length) * eighths + 7) / 8};
}

/* Begins to resize the pixels of `x` and `y`. Returns 0 where no memory is left. */
static int begin_crop(Middle *middle, const Crop *crop, Stretch x, Stretch y) {
    Tools *tools = crop->tools;
    Axis of_x, of_y;
    int size = crop->how.crop;
    if (!make_axis(&tools->x, &of_x, x.begin, x.extent, x.end - x.first, size, crop->is_mirrored, 4) ||
        !make_axis(&tools->y, &of_y, y.begin, y.extent, y.end - y.first, size, 0, 2))
        return 0;
    /* A row is written in pieces of 32 bytes: the last over the end of the crop, and where they are short others too. */
    int direct = crop->how.kind || size < 32 ? 0 : size - 1;
    if (!begin_middle(middle, &tools->window, y.end - y.first, (Size){size, size}, crop->out, direct, of_x, of_y)) return 0;
    middle->line = tools->line;
    middle->put = put_resized_row;
    middle->job = crop;
    return 1;
}

/* At how many eighths of its size a JPEG is decoded for this box: so few that the pixels differ from those of the whole
   image, resized, by less than one grey level in the mean (over 180 photographs; 44 dB and more). */
static int eighths_for(const Crop *crop) {
    static const struct { int eighths, times; } scales[] = {{1, 16}, {2, 8}, {4, 3}};
    int shorter = crop->box.height < crop->box.width ? crop->box.height : crop->box.width;
    for (int i = 0; i < 3; i++)
        if (shorter >= scales[i].times * crop->how.crop) return scales[i].eighths;
    return 8;
}

/* After libjpeg's start. */
static int decode_box(Decoder *decoder, const Crop *crop, int eighths) {
    Jpeg *jpeg = &decoder->jpeg;
    Stretch x = stretch_of(crop->box.left, crop->box.width, eighths), y = stretch_of(crop->box.top, crop->box.height, eighths);
    Middle middle;
    if (!begin_crop(&middle, crop, x, y)) return refuse(decoder, "no memory is left");
    int start = keep_columns(jpeg, x.first, x.end);
    if (!has_rows(decoder->scratch, 3L * (jpeg->out_width + middle.x.taps) + 16)) return refuse(decoder, "no memory is left");
    uint8_t **rows = decoder->scratch->rows;
    if (y.first + middle.top) libjpeg.skip(jpeg, y.first + middle.top);
    for (int i = 0; i < middle.lines; i += ROWS) { /* the rows below are of no use */
        int wanted = middle.lines - i < ROWS ? middle.lines - i : ROWS;
        for (int got = 0, more; got < wanted; got += more)
            if (!(more = libjpeg.read(jpeg, rows + got, wanted - got))) return refuse(decoder, "it ends too early");
        add_rows(&middle, (const uint8_t *const *)rows, start - x.first);
    }
    return 1;
}

/* After libjpeg's start, of a box of the crop's size. */
static int decode_cut(Decoder *decoder, const Crop *crop) {
    Jpeg *jpeg = &decoder->jpeg;
    int size = crop->how.crop, left = crop->box.left;
    unsigned start = keep_columns(jpeg, left, left + size);
    if (!has_rows(decoder->scratch, 3L * jpeg->out_width)) return refuse(decoder, "no memory is left");
    uint8_t **rows = decoder->scratch->rows;
    if (crop->box.top) libjpeg.skip(jpeg, crop->box.top);
    for (int row = 0; row < size;) { /* the rows below are of no use */
        int wanted = size - row, got = libjpeg.read(jpeg, rows, wanted < ROWS ? wanted : ROWS);
        if (!got) return refuse(decoder, "it ends too early");
        for (int i = 0; i < got; i++) put_cut_row(crop, rows[i] + 3 * (left - start), row++);
    }
    return 1;
}

/* Between `create_decoder` and `destroy_decoder`. `ours`: coefficients are decoded by huffman.c where it can. */
static int decode_rows(Decoder *decoder, const Crop *crop, int ours) {
    Jpeg *jpeg = &decoder->jpeg;
    if (setjmp(decoder->failed)) return 0;
    libjpeg.mem_src(jpeg, crop->data, crop->bytes);
    libjpeg.read_header(jpeg, 1);
    jpeg->out_colours = RGB;
    int eighths = is_resized(crop) ? eighths_for(crop) : 8;
    if (eighths < 8) jpeg->scale_num = eighths, jpeg->scale_denom = 8;
    libjpeg.start(jpeg);
    if (ours) replace_entropy_decoder(decoder);
    return is_resized(crop) ? decode_box(decoder, crop, eighths) : decode_cut(decoder, crop);
}

/* Whether the JPEG may be decoded, and is of a size that the crop can be made of; `box` is then where that is in it: the set's
   images are of the size `frame`, and a smaller one has the box in proportion. Else why not in `message`. */
static int fits(Crop *crop, char *message) {
    Header header = read_header(crop->data, crop->bytes);
    const int *frame = crop->frame;
    Box *box = &crop->box;
    if (!may_be_decoded(&header, message)) return 0;
    if (header.height == frame[0] && header.width == frame[1]) return 1;
    const char *why = NULL;
    int size = crop->how.crop, height = header.height, width = header.width;
    if (height > frame[0] || width > frame[1]) why = "it is larger than the set's images";
    else if (!height || !width || (!is_resized(crop) && (height < size || width < size))) why = "it is smaller than the crop";
    if (why) { strcpy(message, why); return 0; }
    if (is_resized(crop)) {
        Box in = *box;
        box->height = placed(in.height, frame[0], height), box->width = placed(in.width, frame[1], width);
        box->height += !box->height, box->width += !box->width;
        box->top = placed(in.top, frame[0] - in.height, height - box->height);
        box->left = placed(in.left, frame[1] - in.width, width - box->width);
    } else {
        box->top = placed(box->top, frame[0] - size, height - size);
        box->left = placed(box->left, frame[1] - size, width - size);
    }
    return 1;
}

static int decode_crop(Crop *crop, char *message) {
    Decoder *decoder = &crop->tools->decoder;
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

/* A box of RGB pixels, resized. Returns 0 where no memory is left. */
static int resize_pixels(const Crop *crop) {
    Tools *tools = crop->tools;
    Box box = crop->box;
    Stretch x = {0, box.width, 0, box.width}, y = {0, box.height, 0, box.height};
    Middle middle;
    if (!begin_crop(&middle, crop, x, y)) return 0;
    long stride = 3L * crop->frame[1], bytes = 3L * box.width, beyond = 3L * middle.x.taps + 16;
    const uint8_t *image = crop->data + box.top * stride + 3L * box.left, *end = crop->data + crop->frame[0] * stride;
    if (!has_rows(&tools->scratch, bytes + beyond)) return 0;
    for (int i = 0; i < middle.lines; i += ROWS) {
        const uint8_t *in[ROWS];
        for (int j = 0; j < ROWS; j++) {
            in[j] = image + stride * (middle.top + (i + j < middle.lines ? i + j : middle.lines - 1));
            if (end - in[j] < bytes + beyond) in[j] = memcpy(tools->scratch.rows[j], in[j], bytes);
        }
        add_rows(&middle, in, 0);
    }
    return 1;
}

static int make_of_pixels(const Crop *crop, char *message) {
    if (is_resized(crop)) {
        if (!resize_pixels(crop)) return strcpy(message, "no memory is left"), 0;
        return 1;
    }
    const uint8_t *in = crop->data + 3 * ((long)crop->box.top * crop->frame[1] + crop->box.left);
    for (int row = 0; row < crop->how.crop; row++) put_cut_row(crop, in + 3L * row * crop->frame[1], row);
    return 1;
}

static int is_inside(Box box, const int32_t *frame) {
    return 0 <= box.top && 0 <= box.left && 0 < box.height && 0 < box.width && box.height <= frame[0] - box.top &&
           box.width <= frame[1] - box.left && frame[0] < 1 << 16 && frame[1] < 1 << 16;
}

/* Returns 0, and why in `message`, where the sample cannot be read or decoded. */
static int put_crop(Crop *crop, char *message) {
    sigjmp_buf cut_off;
    Tools *tools = crop->tools;
    if (!is_inside(crop->box, crop->frame)) return strcpy(message, "its crop lies outside of it"), 0;
    if (crop->bytes >= 0 && !tools->has_decoder) tools->has_decoder = create_decoder(&tools->decoder, &tools->scratch);
    if (crop->bytes >= 0 && !tools->has_decoder) return strcpy(message, "no memory is left"), 0;
    if (sigsetjmp(cut_off, 0)) {
        way_out = NULL;
        strcpy(message, "its file cannot be read any more");
        return 0;
    }
    way_out = &cut_off;
    int done = crop->bytes < 0 ? make_of_pixels(crop, message) : decode_crop(crop, message);
    way_out = NULL;
    return done;
}

static void free_tools(Tools *tools) {
    destroy_decoder(&tools->decoder);
    free_scratch(&tools->scratch);
    free_axis_memory(&tools->x);
    free_axis_memory(&tools->y);
    free(tools->window.rows);
    free(tools->line);
    free(tools->offsets);
}

/* `n` samples to `out` (n, crop, crop, 3): of `stored`, RGB pixels where `bytes` is -1, else JPEGs, all of the heights and
   widths `frames` (n, 2), JPEGs maybe smaller; `boxes` (n, 4) of these, top, left, height and width, which are resized where
   they have another size than the crop. Mirrored from the `upright`th on, less `offset` (n, 3) where `kind` is not 0. Returns
   the first that does not decode, and why in `message` (200 bytes), or -1. */
KERNEL(int, crops)(int n, const uint8_t *const *stored, const int64_t *bytes, const int32_t *frames, const int32_t *boxes,
                   int upright, const float *offset, int crop, int kind, uint8_t *out, char *message) {
    static const int widths[] = {1, 4, 2};
    int values = 3 * crop, failed = -1;
    Tools tools = {.line = malloc(values + 64), .offsets = malloc(values * sizeof(float) + 64)};
    watch_pages();
    if (!tools.line || !tools.offsets) { strcpy(message, "no memory is left"); failed = 0; n = 0; }
    for (int i = 0; i < n && failed < 0; i++) {
        for (int j = 0; kind && j < values; j++) tools.offsets[j] = offset[3 * i + j % 3];
        const int32_t *box = boxes + 4 * i;
        Crop one = {stored[i], bytes[i], frames + 2 * i, {box[0], box[1], box[2], box[3]}, {crop, kind}, i >= upright,
                    out + (long)i * crop * values * widths[kind], &tools};
        if (!put_crop(&one, message)) failed = i;
    }
    free_tools(&tools);
#ifdef HAS_AVX2
    _mm_sfence();
#endif
    return failed;
}
