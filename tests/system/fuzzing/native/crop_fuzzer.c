/* Crops of JPEGs, by crops.c, beside those cut out of what libjpeg makes of the whole image, or resized from that. */

#include <math.h>
#include <string.h>

#include "check.h"
#include "input.h"
#include "oracle.h"
#include "thread.h"

/* How all crops of an input are made; `kind`: see crops.c; `shift`: where in memory, from a multiple of 16 on; `box`: top,
   left, height and width in an image of the height and width `frame`, of the crop's size unless `is_resized`. */
typedef struct { int size, is_resized, kind, is_mirrored, shift; int32_t frame[2], box[4]; float offset[3]; } How;

static Whole *wholes; /* of the images that are decoded between */
static const int WIDTHS[] = {1, 4, 2};
enum { MAX_SIZE = 97, SCALED = 3 }; /* of a resized crop; from so many times its size on, see eighths_for */

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count, (void)arguments;
    prepare();
    prepare_others();
    wholes = calloc(others.count, sizeof *wholes);
    CHECK(wholes, "no memory is left");
    for (int i = 0; i < others.count; i++) {
        Header header = read_header(others.items[i].data, others.items[i].bytes);
        wholes[i] = decode_whole(others.items[i].data, others.items[i].bytes, 8, &header);
    }
    return 0;
}

/* Any box of the image, of the size that it has. */
static How resized(const Input *input, How how) {
    how.size = 1 + input->numbers[0] % MAX_SIZE;
    how.is_resized = 1;
    how.frame[0] = input->header.height, how.frame[1] = input->header.width;
    int places[2] = {input->numbers[3] >> 1, input->bytes[0] * 5};
    for (int i = 0; i < 2 && how.frame[i]; i++) {
        how.box[2 + i] = 1 + input->numbers[1 + i] % how.frame[i];
        how.box[i] = places[i] % (how.frame[i] - how.box[2 + i] + 1);
    }
    return how;
}

static How how_of(const Input *input) {
    int height = input->header.height, width = input->header.width, size = input->numbers[0];
    int shorter = height < width ? height : width, longer = height + width - shorter;
    How how = {.kind = (input->flags >> 1 & 3) % 3, .is_mirrored = input->flags & 1, .shift = input->flags >> 5 << 2};
    for (int i = 0; i < 3; i++) how.offset[i] = (float)(input->bytes[1 + i] - 64) * 1.37f;
    if (input->numbers[3] & 1) return resized(input, how);
    how.size = 1 + size % (shorter + 1); /* the last of them is too large */
    int side = longer - 1 + input->bytes[0] % 24;
    if (input->bytes[0] < 48) side = longer;
    if (side < how.size) side = how.size;
    for (int i = 0; i < 2; i++) {
        how.frame[i] = side;
        how.box[i] = input->numbers[1 + i] % (side - how.size + 1);
        how.box[2 + i] = how.size;
    }
    return how;
}

static long bytes_of(const How *how) { return 3L * how->size * how->size * WIDTHS[how->kind]; }

/* Crops of one image, or of two, of which the first is never mirrored. Returns what `crops` does. */
static int make_crops(const Kernels *kernels, const How *how, const Item *images, int n, uint8_t *out, char *message) {
    const uint8_t *stored[2] = {images[0].data, images[n - 1].data};
    int64_t bytes[2] = {images[0].bytes, images[n - 1].bytes};
    int32_t frames[4], boxes[8];
    memcpy(frames, how->frame, 8), memcpy(frames + 2, how->frame, 8);
    memcpy(boxes, how->box, 16), memcpy(boxes + 4, how->box, 16);
    float offset[6];
    for (int i = 0; i < 6; i++) offset[i] = how->offset[i % 3];
    memset(message, 1, 200);
    int failed = kernels->crops(n, stored, bytes, frames, boxes, how->is_mirrored ? n - 1 : n, offset, how->size,
                                how->kind, out, message);
    CHECK(-1 <= failed && failed < n, "crops returned %d of %d", failed, n);
    CHECK(failed < 0 || (memchr(message, 0, 200) && *message), "no message says why");
    return failed;
}

/* One value as it has to be, by other means than crops.c. */
static int is_value(const uint8_t *out, long at, int kind, uint8_t pixel, float offset) {
    if (kind == 0) return out[at] == pixel;
    float centred = (float)pixel - offset;
    uint32_t bits;
    memcpy(&bits, &centred, 4);
    if (kind == 1) return !memcmp(out + 4 * at, &bits, 4);
    uint16_t upper = bits >> 16, lower = bits & 0xffff;
    if (lower > 0x8000 || (lower == 0x8000 && upper & 1)) upper++;
    return !memcmp(out + 2 * at, &upper, 2);
}

static int place_of(int corner, int margin, int free) {
    return margin ? (int)floor((double)corner * free / margin + 0.5) : 0;
}

/* `out` must be what lies at the crop's place in `whole`. */
static void check_crop(const How *how, int is_mirrored, const Whole *whole, const uint8_t *out, const char *name) {
    int margin = how->frame[0] - how->size;
    int top = place_of(how->box[0], margin, whole->height - how->size);
    int left = place_of(how->box[1], margin, whole->width - how->size);
    CHECK(whole->rows >= top + how->size, "%s was accepted; libjpeg stops after row %d of %d + %d: %s", name, whole->rows, top,
          how->size, whole->why);
    for (int row = 0; row < how->size; row++)
        for (int column = 0; column < how->size; column++) {
            int from = is_mirrored ? how->size - 1 - column : column;
            const uint8_t *pixel = whole->pixels + 3 * ((long)(top + row) * whole->width + left + from);
            for (int i = 0; i < 3; i++)
                CHECK(is_value(out, 3L * (row * how->size + column) + i, how->kind, pixel[i], how->offset[i]),
                      "%s: row %d, column %d of %d from %d, %d is not libjpeg's %d", name, row, column, how->size, top, left,
                      pixel[i]);
        }
}

/* `out` must be what the plain kernel makes of the pixels of `whole`. */
static void check_resized(const How *how, const Whole *whole, const uint8_t *out) {
    Item pixels = {whole->pixels, -1};
    How alone = *how;
    char message[200];
    CHECK(whole->rows >= how->box[0] + how->box[2], "accepted; libjpeg stops after row %d of %d + %d: %s", whole->rows,
          how->box[0], how->box[2], whole->why);
    int shorter = how->box[2] < how->box[3] ? how->box[2] : how->box[3];
    if (shorter >= SCALED * how->size) return; /* decoded at a scale, to other pixels */
    uint8_t *expected = malloc(bytes_of(how));
    CHECK(expected, "no memory is left");
    int failed = make_crops(kernels_of(3), &alone, &pixels, 1, expected, message);
    CHECK(failed < 0, "the whole image's pixels were refused: %s", message);
    CHECK(!memcmp(out, expected, bytes_of(how)), "a crop of %d from %d, %d, %d, %d is not that of the whole image", how->size,
          how->box[0], how->box[1], how->box[2], how->box[3]);
    free(expected);
}

static int fits(const How *how, const Header *header) {
    char message[200];
    if (how->is_resized) return may_be_decoded(header, message) && header->height && header->width;
    int shorter = header->height < header->width ? header->height : header->width;
    int longer = header->height + header->width - shorter;
    return may_be_decoded(header, message) && shorter >= how->size && longer <= how->frame[0];
}

/* `accepted`: whether ours did, to `out`. */
static void judge(const Input *input, const How *how, int accepted, const uint8_t *out, const char *message) {
    if (!fits(how, &input->header)) {
        CHECK(!accepted, "accepted, although its header or size does not allow it");
        return;
    }
    Whole whole = decode_whole(input->image.data, input->image.bytes, 8, &input->header);
    counts.decoded++;
    counts.clean += whole.clean;
    counts.accepted += accepted;
    counts.ours += was_ours();
    counts.usual += whole.clean && is_usual(input->image.data, input->image.bytes);
    if (accepted && how->is_resized) check_resized(how, &whole, out);
    else if (accepted) check_crop(how, how->is_mirrored, &whole, out, "the image");
    else CHECK(!whole.clean, "refused (%s), although libjpeg decodes all of it", message);
    free(whole.pixels);
}

/* Pixels in place of a JPEG, which are libjpeg's whole image then. */
static Whole stored_pixels(const How *how, Item *item) {
    int height = how->frame[0], width = how->frame[1];
    long bytes = 3L * height * width;
    *item = (Item){malloc(bytes), -1};
    CHECK(item->data, "no memory is left");
    for (long i = 0; i < bytes; i++) item->data[i] = i * 31 + (i >> 8);
    return (Whole){.width = width, .height = height, .rows = height, .clean = 1, .pixels = item->data};
}

/* What `crops` must make of the image between, if it accepts it. Where it is stored pixels, they are in `*item` then, to be
   freed; where it is the second JPEG of the input, the pixels of the returned image are to be. */
static Whole image_between(const Input *input, const How *how, Item *item) {
    *item = input->other;
    if (input->which < FIXED) return wholes[input->which];
    if (input->which < PIXELS) return stored_pixels(how, item);
    return decode_whole(item->data, item->bytes, 8, &input->header_of_other);
}

/* Decodes another image in between and the same once more, in one call: nothing may be different. */
static void repeat(const Input *input, const How *how, int accepted, const uint8_t *alone, const char *why) {
    Item images[2] = {{0}, input->image};
    if (input->which >= PIXELS && (!input->has_other || !fits(how, &input->header_of_other))) return;
    if (how->is_resized && !(how->frame[0] && how->frame[1])) return;
    Whole whole = image_between(input, how, images);
    long bytes = bytes_of(how);
    char message[200];
    uint8_t *memory = malloc(2 * bytes + how->shift), *out = memory + how->shift, *again = out + bytes;
    CHECK(memory, "no memory is left");
    int failed = make_crops(input->kernels, how, images, 2, out, message);
    counts.between++;
    if (failed) {
        if (!how->is_resized) check_crop(how, 0, &whole, out, "the image between");
    } else { /* the first of the two, so that the second was not even begun */
        CHECK(images[0].bytes >= 0, "stored pixels were refused: %s", message);
        again = out;
        failed = make_crops(input->kernels, how, &input->image, 1, out, message) < 0 ? -1 : 1;
    }
    CHECK((failed < 0) == accepted, "%s alone, %s after another image: %s", accepted ? "accepted" : "refused",
          accepted ? "refused" : "accepted", accepted ? message : why);
    if (accepted) CHECK(!memcmp(again, alone, bytes), "other pixels after another image");
    else CHECK(!strcmp(message, why), "refused as '%s' alone, as '%s' after another image", why, message);
    free(memory);
    if (input->which >= FIXED) free(whole.pixels);
}

/* An input, and what came of its image alone: `accepted`, `out`, `message`. */
typedef struct { Input input; How how; int accepted; uint8_t *out; char message[200]; } Run;

static void *make_again(void *data) {
    Run *run = data;
    repeat(&run->input, &run->how, run->accepted, run->out, run->message);
    return NULL;
}

static void *make_alone(void *data) {
    Run *run = data;
    was_ours(); /* of the images before */
    run->accepted = make_crops(run->input.kernels, &run->how, &run->input.image, 1, run->out, run->message) < 0;
    judge(&run->input, &run->how, run->accepted, run->out, run->message);
    return is_on_same_thread(&run->input) ? make_again(run) : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Run run;
    if (!read_input(data, bytes, &run.input)) return 0;
    run.how = how_of(&run.input);
    uint8_t *memory = malloc(bytes_of(&run.how) + run.how.shift);
    CHECK(memory, "no memory is left");
    run.out = memory + run.how.shift;
    on_new_thread(make_alone, &run);
    if (!is_on_same_thread(&run.input)) on_new_thread(make_again, &run);
    free(memory);
    free_input(&run.input);
    return 0;
}
