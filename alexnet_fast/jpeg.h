/* libjpeg-turbo for our C files, found at run time (libjpeg.py): no header and no library of the system are needed. */

#include <dlfcn.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
struct Jpeg {
    Errors *errors;
    void *memory, *progress, *client_data;
    int is_decompressor, state;
    void *source;
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
    char more[140];
    int progressive;
    char rest[ABI_SIZE - 316];
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
