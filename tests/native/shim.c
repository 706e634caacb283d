/* A libjpeg that is not what it should be: it calls the real one (at REAL) and, as WRONG says, shows other private
   members than the real one works with. These are exchanged around each call. */

#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#include "abi.h"

enum {
    FORWARDED,       /* all as it is: the decoder of coefficients is the real library's, not this one's */
    ITS_OWN,         /* a decoder of coefficients in this library, which calls the real one */
    NO_ENTROPY,      /* none to be seen */
    UNMAPPED,        /* at an address where nothing is */
    NO_FUNCTION,     /* a decoder without a function */
    MOVED_SOURCE,    /* the source is another structure */
    OTHER_SCAN,      /* the restart interval is elsewhere */
    MOVED_COMPONENT, /* a component is at an address where nothing is */
    MOVED_CODE,      /* a code, likewise */
    OTHER_PIXELS,    /* ITS_OWN; what it decodes of an image 80 pixels wide is brighter */
    NO_ROWS,         /* nothing is read */
    OTHER_VERSION    /* made for another version of the interface */
};

#define CALL(name) (real(#name))

static void *real(const char *name) {
    static void *library;
    if (!library) library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) abort();
    return function;
}

static __thread struct {
    Jpeg *jpeg; /* whose members are exchanged */
    Entropy *entropy, shown;
    Source *source, other_source;
    const Component *component;
    const Code *code;
    DecodeMcu *decode;
} hidden;
static int calls; /* of the decoder of coefficients here */

/* For the test. */
int calls_of_decoder(void) { return calls; }

static int decode_here(Jpeg *jpeg, int16_t **blocks) {
    calls++;
    int done = hidden.decode(jpeg, blocks);
    if (WRONG == OTHER_PIXELS && jpeg->width == 80 && blocks) blocks[0][0] += 60;
    return done;
}

static void hide(Jpeg *jpeg) {
    hidden.jpeg = jpeg;
    switch (WRONG) {
    case NO_ENTROPY: case UNMAPPED: case NO_FUNCTION:
        hidden.entropy = jpeg->entropy;
        hidden.shown.decode = NULL;
        jpeg->entropy = WRONG == NO_ENTROPY ? NULL : WRONG == UNMAPPED ? (Entropy *)0x1000 : &hidden.shown;
        break;
    case MOVED_SOURCE:
        hidden.source = jpeg->source;
        hidden.other_source = (Source){(const uint8_t *)&hidden, 1000};
        jpeg->source = &hidden.other_source;
        break;
    case OTHER_SCAN: jpeg->restart_interval++; break;
    case MOVED_COMPONENT: hidden.component = jpeg->scan[1]; jpeg->scan[1] = (const Component *)0x1000; break;
    case MOVED_CODE: hidden.code = jpeg->codes[1][1]; jpeg->codes[1][1] = (const Code *)0x1000; break;
    }
}

static void show(Jpeg *jpeg) {
    if (hidden.jpeg != jpeg) return;
    hidden.jpeg = NULL;
    switch (WRONG) {
    case NO_ENTROPY: case UNMAPPED: case NO_FUNCTION: jpeg->entropy = hidden.entropy; break;
    case MOVED_SOURCE: jpeg->source = hidden.source; break;
    case OTHER_SCAN: jpeg->restart_interval--; break;
    case MOVED_COMPONENT: jpeg->scan[1] = hidden.component; break;
    case MOVED_CODE: jpeg->codes[1][1] = hidden.code; break;
    }
}

Errors *jpeg_std_error(Errors *errors) { return ((Errors *(*)(Errors *))CALL(jpeg_std_error))(errors); }

void jpeg_CreateDecompress(Jpeg *jpeg, int version, size_t size) {
    hidden.jpeg = NULL;
    ((void (*)(Jpeg *, int, size_t))CALL(jpeg_CreateDecompress))(jpeg, WRONG == OTHER_VERSION ? 80 : version, size);
}

void jpeg_destroy_decompress(Jpeg *jpeg) {
    show(jpeg);
    ((void (*)(Jpeg *))CALL(jpeg_destroy_decompress))(jpeg);
}

void jpeg_mem_src(Jpeg *jpeg, const uint8_t *data, unsigned long bytes) {
    ((void (*)(Jpeg *, const uint8_t *, unsigned long))CALL(jpeg_mem_src))(jpeg, data, bytes);
}

int jpeg_read_header(Jpeg *jpeg, int required) { return ((int (*)(Jpeg *, int))CALL(jpeg_read_header))(jpeg, required); }

int jpeg_start_decompress(Jpeg *jpeg) {
    int done = ((int (*)(Jpeg *))CALL(jpeg_start_decompress))(jpeg);
    if (WRONG == ITS_OWN || WRONG == OTHER_PIXELS) {
        hidden.decode = jpeg->entropy->decode;
        jpeg->entropy->decode = decode_here;
    }
    hide(jpeg);
    return done;
}

#ifndef NO_CROP
void jpeg_crop_scanline(Jpeg *jpeg, unsigned *left, unsigned *width) {
    show(jpeg);
    ((void (*)(Jpeg *, unsigned *, unsigned *))CALL(jpeg_crop_scanline))(jpeg, left, width);
    hide(jpeg);
}
#endif

unsigned jpeg_skip_scanlines(Jpeg *jpeg, unsigned rows) {
    show(jpeg);
    unsigned done = ((unsigned (*)(Jpeg *, unsigned))CALL(jpeg_skip_scanlines))(jpeg, rows);
    hide(jpeg);
    return done;
}

unsigned jpeg_read_scanlines(Jpeg *jpeg, uint8_t **rows, unsigned count) {
    if (WRONG == NO_ROWS) return 0;
    show(jpeg);
    unsigned done = ((unsigned (*)(Jpeg *, uint8_t **, unsigned))CALL(jpeg_read_scanlines))(jpeg, rows, count);
    hide(jpeg);
    return done;
}

void jpeg_abort_decompress(Jpeg *jpeg) {
    show(jpeg);
    ((void (*)(Jpeg *))CALL(jpeg_abort_decompress))(jpeg);
}

int jpeg_finish_decompress(Jpeg *jpeg) {
    show(jpeg);
    return ((int (*)(Jpeg *))CALL(jpeg_finish_decompress))(jpeg);
}
