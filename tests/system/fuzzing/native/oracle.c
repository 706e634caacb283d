#include "oracle.h"

#include <string.h>

#include "check.h"
#include "libjpeg.h"
#include "pack.h"

const char *open_libjpeg(const char *path); /* libjpeg.c */
const char *replace_decoder(const uint8_t *test_image, long bytes);

typedef struct { Jpeg jpeg; Errors errors; jmp_buf stopped; char *why; } Plain;

static void stop(Jpeg *jpeg) {
    Plain *plain = (Plain *)jpeg;
    jpeg->errors->format_message(jpeg, plain->why);
    longjmp(plain->stopped, 1);
}

static void stop_at_warning(Jpeg *jpeg, int level) { if (level < 0) stop(jpeg); }

static void check_header(const Jpeg *jpeg, const Header *header) {
    CHECK((int)jpeg->width == header->width && (int)jpeg->height == header->height &&
          jpeg->components == header->components && (header->kind == 0xc2) == !!jpeg->progressive && !jpeg->arithmetic,
          "header.c says kind %x, %d x %d, %d components; libjpeg %u x %u, %d components, progressive %d",
          header->kind, header->width, header->height, header->components, jpeg->width, jpeg->height, jpeg->components,
          jpeg->progressive);
}

static void read_all(Jpeg *jpeg, Whole *whole) {
    whole->width = jpeg->out_width, whole->height = jpeg->out_height;
    whole->pixels = malloc(3L * whole->width * whole->height);
    CHECK(whole->pixels, "no memory is left");
    while (whole->rows < whole->height) {
        uint8_t *row = whole->pixels + 3L * whole->width * whole->rows;
        if (!libjpeg.read(jpeg, &row, 1)) return;
        whole->rows++;
    }
    whole->clean = libjpeg.finish(jpeg);
}

Whole decode_whole(const uint8_t *data, long bytes, int eighths, const Header *header) {
    static Whole whole; /* for longjmp */
    Plain plain;
    memset(&whole, 0, sizeof whole);
    memset(&plain, 0, sizeof plain);
    plain.why = whole.why;
    plain.jpeg.errors = libjpeg.std_error(&plain.errors);
    plain.errors.error_exit = stop;
    plain.errors.emit_message = stop_at_warning;
    if (!setjmp(plain.stopped)) {
        libjpeg.create(&plain.jpeg, ABI, sizeof(Jpeg));
        libjpeg.mem_src(&plain.jpeg, data, bytes);
        libjpeg.read_header(&plain.jpeg, 1);
        check_header(&plain.jpeg, header);
        plain.jpeg.out_colours = RGB;
        plain.jpeg.scale_num = eighths;
        plain.jpeg.scale_denom = 8;
        libjpeg.start(&plain.jpeg);
        read_all(&plain.jpeg, &whole);
    }
    libjpeg.destroy(&plain.jpeg);
    return whole;
}

int is_usual(const uint8_t *data, long bytes) {
    for (long at = 2; at + 10 < bytes && data[at] == 0xff && data[at + 1] != 0xda;) {
        const uint8_t *segment = data + at + 4;
        long length = data[at + 2] << 8 | data[at + 3];
        if (data[at + 1] == 0xc0 || data[at + 1] == 0xc1) {
            if (length == 11) return segment[5] == 1;
            return length == 17 && at + 19 <= bytes && memchr("\x11\x21\x12\x22\x41", segment[7], 5) &&
                   segment[10] == 0x11 && segment[13] == 0x11;
        }
        at += 2 + length;
    }
    return 0;
}

/* In the place of libjpeg's function, which it calls. */
static unsigned (*read_rows)(Jpeg *, uint8_t **, unsigned);
static int ours;

static unsigned notice_and_read(Jpeg *jpeg, uint8_t **rows, unsigned count) {
    if (jpeg->entropy->decode != replaced_decoder && !jpeg->progressive && !jpeg->arithmetic) ours = 1;
    return read_rows(jpeg, rows, count);
}

int was_ours(void) {
    int was = ours;
    ours = 0;
    return was;
}

void prepare(void) {
    Pack image = read_pack(TEST_IMAGE);
    const char *why = open_libjpeg(LIBJPEG);
    if (!why) why = replace_decoder(image.items->data, image.items->bytes);
    free_pack(&image);
    read_rows = libjpeg.read;
    libjpeg.read = notice_and_read;
    CHECK(!why, "this libjpeg is not used: %s", why);
    atexit(print_counts);
}
