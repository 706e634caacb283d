#include "header.h"

#include <stdio.h>
#include <string.h>

#include "native.h"

enum { BASELINE = 0xc0, EXTENDED, PROGRESSIVE, END = 0xd9, SCAN, FIRST_WITHOUT_LENGTH = 0xd0, LAST_WITHOUT_LENGTH = 0xd9 };
enum { MAX_SCANS = 200 }; /* as in jpeg_header.py */

/* The second byte of the next marker, after which `*at` is then; 0 where there is none. Bytes between markers are passed
   over, among them a scan's, in which a zero follows each ff. */
static int next_marker(const uint8_t *data, long bytes, long *at) {
    while (*at < bytes) {
        const uint8_t *found = memchr(data + *at, 0xff, bytes - *at);
        if (!found) return 0;
        for (*at = found - data; *at < bytes && data[*at] == 0xff;) ++*at;
        if (*at < bytes && data[(*at)++]) return data[*at - 1];
    }
    return 0;
}

static int is_frame(int marker) {
    return 0xc0 <= marker && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

Header read_header(const uint8_t *data, long bytes) {
    Header header = {0};
    long at = 2;
    if (bytes < 2 || data[0] != 0xff || data[1] != 0xd8) return header;
    for (int marker; (marker = next_marker(data, bytes, &at)) && marker != END;) {
        if (marker < 0xc0 || (FIRST_WITHOUT_LENGTH <= marker && marker <= LAST_WITHOUT_LENGTH)) continue;
        const uint8_t *segment = data + at;
        long length = bytes - at < 2 ? 0 : segment[0] << 8 | segment[1];
        if (length < 2 || length > bytes - at) break;
        if (is_frame(marker) && !header.kind && length >= 8) {
            header.kind = marker;
            header.height = segment[3] << 8 | segment[4];
            header.width = segment[5] << 8 | segment[6];
            header.components = segment[7];
        }
        if (marker == SCAN) {
            header.scans++;
            int is_sequential = header.kind == BASELINE || header.kind == EXTENDED;
            if (is_sequential && length > 2 && segment[2] == header.components) break; /* it is the only one */
        }
        at += length;
    }
    return header;
}

int may_be_decoded(const Header *header, char message[200]) {
    const char *why = NULL;
    if (!header->kind) why = "a damaged JPEG or one of an unknown kind (it has no frame header)";
    else if (header->kind > 0xc8) why = "a JPEG of arithmetic codes, which are not supported, or one with a damaged header";
    else if (header->kind > PROGRESSIVE) why = "a lossless or hierarchical JPEG, which is not supported";
    if (why) strcpy(message, why);
    else if (header->scans > MAX_SCANS)
        snprintf(message, 200, "a JPEG of %d scans, more than the limit of %d", header->scans, MAX_SCANS);
    else return 1;
    return 0;
}

/* For tests, which compare it with jpeg_header.py: kind, width, height, components, scans. */
EXPORT void header_of(const uint8_t *data, long bytes, int *numbers) {
    Header header = read_header(data, bytes);
    memcpy(numbers, &header, sizeof header);
}
