/* The middle of resized JPEGs, by resize.c row by row, beside the middle of what libjpeg makes of the whole one. */

#include <math.h>
#include <string.h>

#include "axis.h"
#include "check.h"
#include "input.h"
#include "oracle.h"
#include "thread.h"

/* How an image is shrunk: decoded at `eighths` / 8 to `width` x `height`, of which `wide` x `high` pixels remain. */
typedef struct { int eighths, width, height, wide, high; FuzzAxis x, y; } Shrinking;

enum { MAX_SIZE = 48, MAX_WHOLE = 8 * MAX_SIZE, SPARE_BYTES = 32 }; /* bytes: see middle_of */

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count, (void)arguments;
    prepare();
    prepare_others();
    return 0;
}

/* As sharding/resize.py asks for it, a square or all of the image; or to any other size. */
static Shrinking shrinking_of(const Input *input) {
    static const int scales[] = {8, 4, 3, 2, 1};
    Shrinking how = {.eighths = scales[input->bytes[0] % 5]};
    int size = 1 + input->numbers[0] % MAX_SIZE;
    how.width = (input->header.width * how.eighths + 7) / 8;
    how.height = (input->header.height * how.eighths + 7) / 8;
    int shorter = how.width < how.height ? how.width : how.height;
    double scale = (double)size / shorter;
    int width = fmax(nearbyint(how.width * scale), size), height = fmax(nearbyint(how.height * scale), size);
    if (input->bytes[1] < 64) {
        width = size + input->numbers[1] % (2 * how.width + 8);
        height = size + input->numbers[2] % (2 * how.height + 8);
    }
    int whole = input->bytes[1] % 2 && width <= MAX_WHOLE && height <= MAX_WHOLE;
    how.wide = whole ? width : size, how.high = whole ? height : size;
    how.x = make_axis(how.width, width, how.wide);
    how.y = make_axis(how.height, height, how.high);
    return how;
}

/* `out` has so many bytes. */
static long bytes_of(const Shrinking *how) { return 3L * how->wide * how->high + SPARE_BYTES; }

static int make_middle(const Input *input, const Shrinking *how, uint8_t *out) {
    const FuzzAxis *x = &how->x, *y = &how->y;
    memset(out, 0x55, bytes_of(how));
    return input->kernels->jpeg_middle(input->image.data, input->image.bytes, how->eighths, how->width, how->height, how->wide,
                                       how->high, out, x->first, x->weights, x->taps, x->shift, y->first, y->weights, y->taps,
                                       y->shift);
}

/* The middle of `whole`, by the plain kernel; `out` must be that. */
static void check_middle(const Shrinking *how, const Whole *whole, const uint8_t *out) {
    const FuzzAxis *x = &how->x, *y = &how->y;
    uint8_t *expected = malloc(bytes_of(how));
    CHECK(expected, "no memory is left");
    CHECK(whole->width == how->width && whole->height == how->height, "accepted, although it is of another size");
    CHECK(kernels_of(3)->middle(whole->pixels, whole->width, whole->height, how->wide, how->high, expected, x->first, x->weights,
                                x->taps, x->shift, y->first, y->weights, y->taps, y->shift), "no memory is left");
    for (long i = 0; i < 3L * how->wide * how->high; i++)
        CHECK(out[i] == expected[i], "byte %ld of %d x %d pixels is %d, but %d of the whole image", i, how->wide, how->high,
              out[i], expected[i]);
    free(expected);
}

/* What is left to other libraries though it is of the usual kind, for people to look at: in the folder LEFT. */
static void keep(const Input *input) {
    const char *folder = getenv("LEFT");
    char path[4096];
    if (!folder || counts.left > 200) return;
    snprintf(path, sizeof path, "%s/%ld.jpg", folder, counts.left);
    FILE *file = fopen(path, "wb");
    if (!file) return;
    fwrite(input->image.data, 1, input->image.bytes, file);
    fclose(file);
}

static void judge(const Input *input, const Shrinking *how, int accepted, const uint8_t *out) {
    char message[200];
    if (!may_be_decoded(&input->header, message)) {
        CHECK(!accepted, "accepted, although its header does not allow it");
        return;
    }
    Whole whole = decode_whole(input->image.data, input->image.bytes, how->eighths, &input->header);
    int usual = whole.clean && is_usual(input->image.data, input->image.bytes);
    counts.decoded++;
    counts.clean += whole.clean;
    counts.accepted += accepted;
    counts.ours += was_ours();
    counts.usual += usual;
    if (accepted) {
        CHECK(whole.clean, "accepted, although libjpeg stops after row %d: %s", whole.rows, whole.why);
        check_middle(how, &whole, out);
    } else if (usual) {
        counts.left++;
        keep(input);
    }
    free(whole.pixels);
}

/* A crop of another image, which leaves its codes' tables behind; its pixels are crop_fuzzer.c's to check. */
static int decode_between(const Input *input) {
    static const int32_t frame[2] = {MAX_SIDE, MAX_SIDE}, box[4] = {0, 0, 1, 1};
    uint8_t out[3];
    char message[200];
    if (!input->has_other) return 0;
    const uint8_t *stored = input->other.data;
    int64_t bytes = input->other.bytes;
    input->kernels->crops(1, &stored, &bytes, frame, box, 1, NULL, 1, 0, out, message);
    counts.between++;
    return 1;
}

/* An input, and what came of its image alone: `accepted`, `out`. `again`: room for as much. */
typedef struct { Input input; Shrinking how; int accepted; uint8_t *out, *again; } Run;

static void *make_again(void *data) {
    Run *run = data;
    if (!decode_between(&run->input)) return NULL;
    CHECK(make_middle(&run->input, &run->how, run->again) == run->accepted, "accepted or not, by what was decoded before");
    if (run->accepted)
        CHECK(!memcmp(run->out, run->again, bytes_of(&run->how) - SPARE_BYTES), "other pixels after another image");
    return NULL;
}

static void *make_alone(void *data) {
    Run *run = data;
    was_ours(); /* of the images before */
    run->accepted = make_middle(&run->input, &run->how, run->out);
    judge(&run->input, &run->how, run->accepted, run->out);
    return is_on_same_thread(&run->input) ? make_again(run) : NULL;
}

static void make_both(Run *run) {
    run->how = shrinking_of(&run->input);
    run->out = malloc(bytes_of(&run->how)), run->again = malloc(bytes_of(&run->how));
    CHECK(run->out && run->again, "no memory is left");
    on_new_thread(make_alone, run);
    if (!is_on_same_thread(&run->input)) on_new_thread(make_again, run);
    free(run->out);
    free(run->again);
    free_axis(&run->how.x);
    free_axis(&run->how.y);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    Run run;
    if (!read_input(data, bytes, &run.input)) return 0;
    if (run.input.header.width && run.input.header.height) make_both(&run);
    free_input(&run.input);
    return 0;
}
