/* What a JPEG's markers say of it, read without a decoder. */

#ifndef HEADER_H
#define HEADER_H

#include <stdint.h>

/* `kind`: the second byte of the frame's marker, 0 where there is no frame. `scans`: how many a decoder would read. */
typedef struct { int kind, width, height, components, scans; } Header;

Header read_header(const uint8_t *data, long bytes);

/* Whether a decoder may have it: the rule of sharding/jpeg_header.py, sizes apart. Else why not in `message`. */
int may_be_decoded(const Header *header, char message[200]);

#endif
