#include "input.h"

#include <string.h>

#include "check.h"

Pack others;

void prepare_others(void) {
    others = read_pack(OTHERS);
    CHECK(others.count > 0, "%s is empty", OTHERS);
}

static int number(const uint8_t *at) { return at[0] | at[1] << 8; }

static int is_small(const Header *header) {
    return header->width <= MAX_SIDE && header->height <= MAX_SIDE &&
           (long)header->scans * header->width * header->height <= MAX_SCANNED;
}

int read_input(const uint8_t *data, size_t bytes, Input *input) {
    memset(input, 0, sizeof *input);
    if (bytes < TRAILER) return 0;
    const uint8_t *trailer = data + bytes - TRAILER;
    long left = bytes - TRAILER, second = number(trailer);
    input->which = trailer[2];
    input->flags = trailer[3];
    for (int i = 0; i < 4; i++) input->numbers[i] = number(trailer + 4 + 2 * i);
    for (int i = 0; i < 4; i++) input->bytes[i] = trailer[12 + i];
    if (input->which < PIXELS || second > left) second = 0;
    input->header = read_header(data, left - second);
    if (!is_small(&input->header)) return 0;
    input->kernels = kernels_of(input->flags >> 3 & 3);
    input->image = (Item){copy_of(data, left - second), left - second};
    if (second) {
        input->header_of_other = read_header(data + left - second, second);
        input->has_other = is_small(&input->header_of_other);
        input->other = (Item){copy_of(data + left - second, second), second};
    } else if (input->which < FIXED) {
        input->which %= others.count;
        input->other = others.items[input->which];
        input->has_other = 1;
    }
    return 1;
}

int is_on_same_thread(const Input *input) { return input->bytes[3] & 1; }

void free_input(Input *input) {
    free(input->image.data);
    if (input->which >= PIXELS) free(input->other.data);
}
