#include "pack.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

uint8_t *copy_of(const uint8_t *data, long bytes) {
    uint8_t *copy = malloc(bytes ? bytes : 1);
    CHECK(copy, "no memory is left");
    return bytes ? memcpy(copy, data, bytes) : copy;
}

Pack read_pack(const char *path) {
    Pack pack = {NULL, 0};
    FILE *file = fopen(path, "rb");
    CHECK(file, "%s cannot be opened", path);
    uint8_t size[4];
    while (fread(size, 1, 4, file) == 4) {
        long bytes = size[0] | size[1] << 8 | size[2] << 16 | (long)size[3] << 24;
        if (!(pack.count & (pack.count - 1)))
            pack.items = realloc(pack.items, 2 * (pack.count + 1) * sizeof *pack.items);
        CHECK(pack.items, "no memory is left");
        Item *item = pack.items + pack.count++;
        *item = (Item){malloc(bytes ? bytes : 1), bytes};
        CHECK(item->data && (long)fread(item->data, 1, bytes, file) == bytes, "%s is cut off", path);
    }
    fclose(file);
    return pack;
}

void free_pack(Pack *pack) {
    for (int i = 0; i < pack->count; i++) free(pack->items[i].data);
    free(pack->items);
}
