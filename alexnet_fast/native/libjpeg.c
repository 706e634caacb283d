#define _GNU_SOURCE /* dladdr */
#include "libjpeg.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "native.h"

Libjpeg libjpeg;
DecodeMcu *replaced_decoder;

static void fail(Jpeg *jpeg) {
    Decoder *decoder = (Decoder *)jpeg;
    jpeg->errors->format_message(jpeg, decoder->message);
    longjmp(decoder->failed, 1);
}

static void fail_on_warning(Jpeg *jpeg, int level) { if (level < 0) fail(jpeg); }

int create_decoder(Decoder *decoder, Scratch *scratch) {
    memset(decoder, 0, sizeof *decoder);
    decoder->scratch = scratch;
    decoder->jpeg.errors = libjpeg.std_error(&decoder->errors);
    decoder->errors.error_exit = fail;
    decoder->errors.emit_message = fail_on_warning;
    if (setjmp(decoder->failed)) return 0;
    libjpeg.create(&decoder->jpeg, ABI, sizeof(Jpeg));
    decoder->fresh = decoder->jpeg;
    return 1;
}

/* What abort leaves in libjpeg's other objects (marker reader, input controller) its next read_header sets anew. */
void renew_decoder(Decoder *decoder) {
    libjpeg.abort(&decoder->jpeg);
    decoder->jpeg = decoder->fresh;
    memset(&decoder->scan, 0, sizeof decoder->scan);
    decoder->message[0] = 0;
}

void destroy_decoder(Decoder *decoder) { libjpeg.destroy(&decoder->jpeg); }

/* Not at multiples of 32: to those libjpeg-turbo writes past the caches, which costs a fifth of the time here. */
int has_rows(Scratch *scratch, long bytes) {
    if (scratch->row_bytes < bytes) {
        long stride = (bytes + 127) & ~63L;
        free(scratch->memory);
        scratch->memory = malloc(ROWS * stride + 64);
        scratch->row_bytes = scratch->memory ? bytes : 0;
        uint8_t *first = (uint8_t *)(((uintptr_t)scratch->memory + 63) & ~(uintptr_t)63) + 16;
        for (int i = 0; i < ROWS; i++) scratch->rows[i] = first + i * stride;
    }
    return scratch->memory != NULL;
}

void free_scratch(Scratch *scratch) {
    free(scratch->memory);
    free(scratch->copy);
}

/* Columns beside the wanted ones on which these depend: those of colour between which upsampling interpolates, and, where
   the scans of a progressive JPEG lack detail, two more blocks, which are at most 32 wide. */
enum { MARGIN = 2, PROGRESSIVE_MARGIN = 3 * 32 };

unsigned keep_columns(Jpeg *jpeg, int left, int end) {
    int margin = jpeg->progressive ? PROGRESSIVE_MARGIN : MARGIN, width = jpeg->out_width;
    unsigned start = left < margin ? 0 : left - margin, columns = (end + margin < width ? end + margin : width) - start;
    libjpeg.crop(jpeg, &start, &columns);
    return start;
}

static int is_in_same_library(const void *a, const void *b) {
    Dl_info of_a, of_b;
    return a && b && dladdr(a, &of_a) && dladdr(b, &of_b) && of_a.dli_fbase == of_b.dli_fbase;
}

/* Uses the libjpeg that the library or module at `path` is linked with, or is. Returns why it cannot be used, or NULL. */
EXPORT const char *open_libjpeg(const char *path) {
    static const char *const names[] = {
        "jpeg_std_error", "jpeg_CreateDecompress", "jpeg_destroy_decompress", "jpeg_mem_src", "jpeg_read_header",
        "jpeg_start_decompress", "jpeg_crop_scanline", "jpeg_skip_scanlines", "jpeg_read_scanlines",
        "jpeg_finish_decompress", "jpeg_abort_decompress"};
    void *library = dlopen(path, RTLD_NOW), **function = (void **)&libjpeg;
    replaced_decoder = NULL;
    if (!library) return "it cannot be opened";
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        function[i] = dlsym(library, names[i]);
        if (!function[i]) return "it lacks functions that libjpeg-turbo has";
        if (!is_in_same_library(function[i], function[0])) return "its functions are of several libraries";
    }
    Decoder decoder;
    Scratch scratch = {0};
    if (!create_decoder(&decoder, &scratch)) return "its structures are not those of libjpeg's ABI 6.2";
    destroy_decoder(&decoder);
    return NULL;
}

/* The file that this libjpeg was loaded from. */
EXPORT const char *libjpeg_file(void) {
    Dl_info info;
    return dladdr((void *)libjpeg.start, &info) ? info.dli_fname : "";
}

static int is_mapped(const void *place) {
    uintptr_t page = sysconf(_SC_PAGESIZE);
    return place && !msync((void *)((uintptr_t)place & ~(page - 1)), page, MS_ASYNC);
}

/* After libjpeg's start of the test image: which private member is not what it should be, or NULL. */
static const char *wrong_member(const Jpeg *jpeg, const uint8_t *test_image, long bytes) {
    static const int mcu[] = {0, 0, 0, 0, 1, 2}, all[] = {0, 63, 0, 0};
    size_t unread = is_mapped(jpeg->source) ? jpeg->source->bytes : 0;
    if (!unread || jpeg->source->next != test_image + bytes - unread) return "its source is not where it should be";
    if (jpeg->scan_components != 3 || jpeg->mcu_blocks != 6 || memcmp(jpeg->mcu_components, mcu, sizeof mcu) ||
        jpeg->restart_interval != 3 || memcmp(jpeg->spectrum, all, sizeof all) || jpeg->precision != 8)
        return "its scan is not described where it should be";
    for (int i = 0; i < 3; i++) {
        const Component *component = is_mapped(jpeg->scan[i]) ? jpeg->scan[i] : NULL;
        int table = i > 0;
        if (!component || component->dc != table || component->ac != table || !is_mapped(jpeg->codes[0][table]) ||
            !is_mapped(jpeg->codes[1][table]))
            return "its components and codes are not where they should be";
    }
    if (!is_mapped(jpeg->entropy)) return "its decoder of coefficients is not where it should be";
    if (!is_in_same_library((void *)jpeg->entropy->decode, (void *)libjpeg.start))
        return "its decoder of coefficients is none of its own functions";
    return NULL;
}

/* Finds where libjpeg decodes coefficients, by a baseline JPEG with colour at half the resolution and restarts every 3
   MCUs; from then on huffman.c does that. Returns NULL, or why it may not. */
EXPORT const char *replace_decoder(const uint8_t *test_image, long bytes) {
    const char *volatile reason = "it does not decode the test image";
    Decoder decoder;
    Scratch scratch = {0};
    replaced_decoder = NULL;
    if (!create_decoder(&decoder, &scratch)) return "no memory is left";
    if (!setjmp(decoder.failed)) {
        libjpeg.mem_src(&decoder.jpeg, test_image, bytes);
        libjpeg.read_header(&decoder.jpeg, 1);
        libjpeg.start(&decoder.jpeg);
        reason = wrong_member(&decoder.jpeg, test_image, bytes);
        if (!reason) replaced_decoder = decoder.jpeg.entropy->decode;
    }
    destroy_decoder(&decoder);
    return reason;
}

/* libjpeg decodes coefficients itself again. */
EXPORT void keep_decoder(void) { replaced_decoder = NULL; }
