/* Many inputs in one file: of each its length in four bytes, the lowest first, and itself. */

#ifndef PACK_H
#define PACK_H

#include <stdint.h>

typedef struct { uint8_t *data; long bytes; } Item;
typedef struct { Item *items; int count; } Pack;

/* Ends the process where the file is none. */
Pack read_pack(const char *path);
void free_pack(Pack *pack);

/* Of as many bytes as there are, so that the address sanitizer sees what is read behind them. To be freed. */
uint8_t *copy_of(const uint8_t *data, long bytes);

#endif
