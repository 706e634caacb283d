/* libjpeg-turbo for our C files, found at run time (libjpeg.py): no header and no library of the system are needed. */

#include <dlfcn.h>
#include <setjmp.h>

#include "huffman.h"

/* libjpeg's structures as ABI version 6.2 has them (jpeglib.h), up to the last member used here. libjpeg itself compares
   version and size when it creates a decompressor. */
enum { ABI = 62, ABI_SIZE = 632, RGB = 2 };
typedef struct Jpeg Jpeg;
typedef struct {
    void (*error_exit)(Jpeg *);
    void (*emit_message)(Jpeg *, int level);
    void (*output_message)(Jpeg *);
    void (*format_message)(Jpeg *, char *buffer); /* of 200 bytes */
    void *rest[17];
} Errors;
typedef struct { int numbers[5], dc, ac; } Component; /* and more */
typedef struct { const uint8_t *next; size_t bytes; } Source; /* and more */
typedef struct {
    void (*start)(Jpeg *);
    int (*decode)(Jpeg *, int16_t **blocks); /* an MCU; NULL: to skip it */
} Entropy; /* and more */
struct Jpeg {
    Errors *errors;
    void *memory, *progress, *client_data;
    int is_decompressor, state;
    Source *source;
    unsigned width, height;
    int components, jpeg_colours, out_colours;
    unsigned scale_num, scale_denom;
    double gamma;
    int buffered_image, raw_data_out, dct_method, do_fancy_upsampling, do_block_smoothing, quantize_colours;
    int dither_mode, two_pass_quantize, desired_colours, enable_quantizers[3];
    unsigned out_width, out_height;
    int out_colour_components, out_components, rows_in_buffer, actual_colours;
    void *colourmap;
    unsigned out_row;
    int input_scan;
    unsigned input_row;
    int output_scan;
    unsigned output_row;
    void *coefficient_bits, *quantisation[4];
    const Code *codes[2][4]; /* dc, ac */
    int precision;
    void *component_info;
    int progressive, arithmetic;
    uint8_t arithmetic_tables[48];
    unsigned restart_interval;
    char application[36];
    int largest_h, largest_v, smallest_dct;
    unsigned rows;
    void *range_limit;
    int scan_components;
    const Component *scan[4];
    unsigned mcus_per_row, mcu_rows;
    int mcu_blocks, mcu_components[10], spectrum[4], unread_marker;
    void *master, *main, *coefficients, *post, *input, *marker;
    Entropy *entropy;
    void *idct, *upsample, *convert, *quantize;
};
typedef char abi_size_fits[sizeof(Jpeg) == ABI_SIZE ? 1 : -1];

static struct {
    Errors *(*std_error)(Errors *);
    void (*create)(Jpeg *, int version, size_t size);
    void (*destroy)(Jpeg *);
    void (*mem_src)(Jpeg *, const uint8_t *, unsigned long);
    int (*read_header)(Jpeg *, int);
    int (*start)(Jpeg *);
    void (*crop)(Jpeg *, unsigned *left, unsigned *width);
    unsigned (*skip)(Jpeg *, unsigned);
    unsigned (*read)(Jpeg *, uint8_t **, unsigned);
    int (*finish)(Jpeg *);
    void (*abort)(Jpeg *);
} lib;

/* `rows`: a few rows of the decoded image, each with room for `row_bytes`. */
enum { ROWS = 4 };
typedef struct {
    Jpeg jpeg;
    Errors errors;
    Scan scan;
    unsigned mcus_left, restarts; /* of the scan: until the next restart, and those before */
    jmp_buf failed;
    char message[200];
    uint8_t *memory, *rows[ROWS];
    long row_bytes;
} Decoder;

static void fail(Jpeg *jpeg) {
    Decoder *decoder = (Decoder *)jpeg;
    jpeg->errors->format_message(jpeg, decoder->message);
    longjmp(decoder->failed, 1);
}
static void ignore(Jpeg *jpeg, int level) {}
static void fail_on_warning(Jpeg *jpeg, int level) { if (level < 0) fail(jpeg); }

/* `heed`: of a damaged file's warnings, `ignore` or `fail_on_warning`. */
static int create(Decoder *decoder, void (*heed)(Jpeg *, int level)) {
    memset(decoder, 0, sizeof *decoder);
    decoder->jpeg.errors = lib.std_error(&decoder->errors);
    decoder->errors.error_exit = fail;
    decoder->errors.emit_message = heed;
    if (setjmp(decoder->failed)) return 0;
    lib.create(&decoder->jpeg, ABI, sizeof(Jpeg));
    return 1;
}

static void destroy(Decoder *decoder) {
    lib.destroy(&decoder->jpeg);
    free(decoder->scan.copy);
    free(decoder->memory);
}

/* Not at multiples of 32: to those libjpeg-turbo writes past the caches, which costs a fifth of the time here. */
static int has_rows(Decoder *decoder, long bytes) {
    if (decoder->row_bytes < bytes) {
        long stride = (bytes + 127) & ~63L;
        free(decoder->memory);
        decoder->memory = malloc(ROWS * stride + 64);
        decoder->row_bytes = decoder->memory ? bytes : 0;
        uint8_t *first = (uint8_t *)(((uintptr_t)decoder->memory + 63) & ~(uintptr_t)63) + 16;
        for (int i = 0; i < ROWS; i++) decoder->rows[i] = first + i * stride;
    }
    return decoder->memory != NULL;
}

static int refuse_scan(Decoder *decoder) {
    strcpy(decoder->message, "its scan is odd");
    longjmp(decoder->failed, 1);
}

/* For libjpeg: the next MCU. Its blocks are all 0; what is skipped leaves no trace. */
static int decode_mcu(Jpeg *jpeg, int16_t **blocks) {
    Decoder *decoder = (Decoder *)jpeg;
    Scan *scan = &decoder->scan;
    int16_t skipped[BLOCK];
    if (!decoder->mcus_left) {
        if (!is_complete(scan) || scan->source[1] != 0xd0 + decoder->restarts++ % 8) return refuse_scan(decoder);
        scan->source += 2;
        if (!next_interval(scan)) return refuse_scan(decoder);
        decoder->mcus_left = jpeg->restart_interval;
    }
    decoder->mcus_left--;
    for (int i = 0; i < jpeg->mcu_blocks; i++) {
        int number = jpeg->mcu_components[i];
        const Component *component = jpeg->scan[number];
        if (!decode_block(scan, number, component->dc, component->ac, blocks ? blocks[i] : skipped))
            return refuse_scan(decoder);
    }
    return bits_left(scan) >= 0 || refuse_scan(decoder);
}

/* After libjpeg's start: from here on coefficients are decoded here, where the JPEG is of the usual kind. Then what is
   odd fails, while libjpeg may warn or not mind. Returns whether it is so. */
static int take_over(Decoder *decoder) {
    static _Thread_local Tables tables; /* kept: most JPEGs have the same */
    Jpeg *jpeg = &decoder->jpeg;
    Scan *scan = &decoder->scan;
    static const int all[] = {0, BLOCK - 1, 0, 0};
    if (jpeg->progressive || jpeg->arithmetic || jpeg->precision != 8 || jpeg->scan_components != jpeg->components ||
        memcmp(jpeg->spectrum, all, sizeof all))
        return 0;
    for (int i = 0; i < jpeg->scan_components; i++) {
        int dc = jpeg->scan[i]->dc, ac = jpeg->scan[i]->ac;
        if (!is_of(&tables.dc[dc], jpeg->codes[0][dc]) && !make_table(&tables.dc[dc], jpeg->codes[0][dc], 0)) return 0;
        if (is_of(&tables.ac[ac], jpeg->codes[1][ac])) continue;
        if (!make_table(&tables.ac[ac], jpeg->codes[1][ac], 1)) return 0;
        make_steps(tables.steps[ac], &tables.ac[ac]);
    }
    if (!has_room(scan, jpeg->source->bytes)) return 0;
    scan->tables = &tables;
    scan->source = jpeg->source->next;
    scan->source_end = scan->source + jpeg->source->bytes;
    decoder->restarts = 0;
    decoder->mcus_left = jpeg->restart_interval ? jpeg->restart_interval : ~0u;
    if (!next_interval(scan)) return 0;
    jpeg->entropy->decode = decode_mcu;
    return 1;
}

/* Before libjpeg's finish, which goes on behind the scan. Returns whether all of that was read. */
static int hand_back(Decoder *decoder) {
    Source *source = decoder->jpeg.source;
    source->next = decoder->scan.source;
    source->bytes = decoder->scan.source_end - source->next;
    return is_complete(&decoder->scan);
}

/* Columns beside the wanted ones on which these depend: those of colour between which upsampling interpolates, and, where
   the scans of a progressive JPEG lack detail, two more blocks, which are at most 32 wide. */
enum { MARGIN = 2, PROGRESSIVE_MARGIN = 3 * 32 };

/* After libjpeg's start: rows will begin at the returned column, `left` or before, and reach to `end` at least. */
static unsigned keep_columns(Jpeg *jpeg, int left, int end) {
    int margin = jpeg->progressive ? PROGRESSIVE_MARGIN : MARGIN, width = jpeg->out_width;
    unsigned start = left < margin ? 0 : left - margin, columns = (end + margin < width ? end + margin : width) - start;
    lib.crop(jpeg, &start, &columns);
    return start;
}

/* 1 where the library at this path has what is needed. */
int open_libjpeg(const char *path) {
    static const char *const names[] = {
        "jpeg_std_error", "jpeg_CreateDecompress", "jpeg_destroy_decompress", "jpeg_mem_src", "jpeg_read_header",
        "jpeg_start_decompress", "jpeg_crop_scanline", "jpeg_skip_scanlines", "jpeg_read_scanlines",
        "jpeg_finish_decompress", "jpeg_abort_decompress"};
    void *library = dlopen(path, RTLD_NOW), **function = (void **)&lib;
    for (unsigned i = 0; library && i < sizeof names / sizeof *names; i++)
        if (!(function[i] = dlsym(library, names[i]))) return 0;
    Decoder decoder;
    if (!library || sizeof(void *) != 8 || !create(&decoder, ignore)) return 0;
    lib.destroy(&decoder.jpeg);
    return 1;
}
