/* Huffman decoding of baseline JPEGs: the same coefficients as libjpeg-turbo's in some 0.57 of its time, which is two
   thirds of a JPEG's. A scan that is corrupt or of an unusual kind fails here; the caller then decodes the image again
   with libjpeg's own decoder.

   A scan is copied without the zeros stuffed into it, so that eight bytes can be taken at a time without looking at
   each; and one look at the next LOOK bits gives all that they hold, two coefficients as a rule. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libjpeg.h"
#include "native.h"

/* STEPS * LOOK bits, and the longest value with its code twice, fit into the 56 that a REFILL gives at least. */
enum { LOOK = 10, STEPS = 5, LONGEST = 16, DC_BITS = 11, AC_BITS = 10, BLOCK = 64, ENDED = 128 };
/* Bytes behind an interval that may be read before it is noticed: of a MCU of ten blocks, and more. */
enum { SPARE = (LONGEST + DC_BITS) * BLOCK * 10 / 8 + 64 };

/* A code and the value behind it: bits of both, bits of the value, zeros before it. `bits` is 0 where the code is longer
   than LOOK. */
typedef struct { uint8_t bits, value_bits, zeros; } Symbol;

/* What the next bits hold of a block: two values, or one twice; how many places on they are, and how many the next one
   is; the bits of all this, or 0 where it is more than LOOK. */
typedef struct { int16_t values[2]; uint8_t places[2], next, bits; } Step;

typedef struct {
    int is_made, count; /* of symbols */
    Code code; /* of which it was made */
    int32_t end[LONGEST + 1], offset[LONGEST + 1]; /* of each length: the code after the last; from code to symbol */
    Symbol symbols[1 << LOOK];
} Table;

struct Tables { Table dc[4], ac[4]; Step steps[4][1 << LOOK]; };

/* Where in a block its values belong. Zeros may lead past the end, twice. */
static const uint8_t ZIGZAG[BLOCK + 32] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63};

/* `bits` begins with this symbol. A value that begins with 0 is below 0, and inverted. */
static inline int value_of(uint64_t bits, Symbol symbol) {
    uint64_t value = bits << (symbol.bits - symbol.value_bits), below = ~(uint64_t)((int64_t)value >> 63);
    return (int)(((value ^ below) >> 1 >> (63 - symbol.value_bits)) ^ below) - (int)below;
}

static Symbol symbol_of(int symbol, int length, int is_ac) {
    int value_bits = is_ac ? symbol & 15 : symbol;
    return (Symbol){length + value_bits, value_bits, is_ac ? symbol >> 4 : 0};
}

/* What libjpeg leaves behind the last symbol is any bytes. */
static int is_of(const Table *table, const Code *code) {
    return table->is_made && !memcmp(table->code.lengths + 1, code->lengths + 1, LONGEST) &&
           !memcmp(table->code.symbols, code->symbols, table->count);
}

/* Returns 0 where it is no code, or its values are longer than an 8-bit image has them. */
static int make_table(Table *table, const Code *code, int is_ac) {
    memset(table, 0, sizeof *table);
    int next = 0, place = 0;
    for (int length = 1; length <= LONGEST; length++, next <<= 1) {
        if (next + code->lengths[length] > 1 << length || place + code->lengths[length] > 256) return 0;
        table->offset[length] = place - next;
        for (int i = 0; i < code->lengths[length]; i++, next++, place++) {
            Symbol symbol = symbol_of(code->symbols[place], length, is_ac);
            if (symbol.value_bits > (is_ac ? AC_BITS : DC_BITS)) return 0;
            for (int j = 0; length <= LOOK && j < 1 << (LOOK - length); j++)
                table->symbols[(next << (LOOK - length)) + j] = symbol;
        }
        table->end[length] = next;
    }
    table->code = *code;
    table->count = place;
    table->is_made = 1;
    return 1;
}

/* The step of `bits`, which begin with this symbol, `k` places on. */
static void add_symbol(Step *step, uint64_t bits, Symbol symbol, int value) {
    int k = step->next;
    if (symbol.value_bits) {
        step->values[value] = value_of(bits, symbol);
        step->places[value] = k + symbol.zeros;
        step->next = k + symbol.zeros + 1;
    } else step->next = k + (symbol.zeros == 15 ? 16 : ENDED);
    step->bits += symbol.bits;
}

static void make_steps(Step *steps, const Table *ac) {
    memset(steps, 0, sizeof *steps << LOOK);
    for (uint64_t i = 0; i < 1 << LOOK; i++) {
        Step *step = steps + i;
        Symbol first = ac->symbols[i];
        if (!first.bits || first.bits > LOOK) continue;
        add_symbol(step, i << (64 - LOOK), first, 0);
        step->values[1] = step->values[0];
        step->places[1] = step->places[0];
        /* None after 16 zeros: they may end the block, and a second value would be written to it all the same. */
        if (!first.value_bits) continue;
        uint64_t rest = i << (64 - LOOK) << first.bits;
        Symbol second = ac->symbols[rest >> (64 - LOOK)];
        if (second.bits && first.bits + second.bits <= LOOK) add_symbol(step, rest, second, 1);
    }
}

static int has_copy(Scratch *scratch, long bytes) {
    if (scratch->room < bytes + SPARE) {
        free(scratch->copy);
        scratch->copy = malloc(bytes + SPARE);
        scratch->room = scratch->copy ? bytes + SPARE : 0;
    }
    return scratch->copy != NULL;
}

/* Copies the next interval, which ends at a marker. Returns 0 where there is none, or where more bytes ff come before it: the
   file may end among them, of which libjpeg warns. */
static int next_interval(Scan *scan) {
    uint8_t *to = scan->copy;
    for (const uint8_t *from = scan->source, *stuffed;; from = stuffed + 2) {
        stuffed = memchr(from, 0xff, scan->source_end - from);
        if (!stuffed || stuffed + 1 == scan->source_end || stuffed[1] == 0xff) return 0;
        memcpy(to, from, stuffed + 1 - from);
        to += stuffed + 1 - from;
        if (stuffed[1]) { scan->source = stuffed; break; }
    }
    scan->end = to - 1;
    memset(scan->end, 0, SPARE);
    scan->at = scan->copy;
    scan->bits = scan->left = 0;
    memset(scan->dc, 0, sizeof scan->dc);
    return 1;
}

/* Of the interval; below 0 where more was read than it has. */
static long bits_left(const Scan *scan) { return 8 * (scan->end - scan->at) + scan->left; }

static int is_complete(const Scan *scan) { return 0 <= bits_left(scan) && bits_left(scan) < 8; }

static inline uint64_t eight_bytes(const uint8_t *at) {
    uint64_t bytes;
    memcpy(&bytes, at, 8);
    return __builtin_bswap64(bytes);
}

/* `bits` 0: there is none. */
static Symbol next_symbol(const Table *table, uint64_t bits, int is_ac) {
    Symbol symbol = table->symbols[bits >> (64 - LOOK)];
    for (int length = LOOK + 1; !symbol.bits && length <= LONGEST; length++) {
        int code = bits >> (64 - length);
        if (code < table->end[length])
            symbol = symbol_of(table->code.symbols[table->offset[length] + code], length, is_ac);
    }
    return symbol;
}

/* One block, which is all 0. Returns 0 where it is corrupt, or a DC value leaves 16 bits. */
static inline int decode_block(Scan *scan, int component, int dc, int ac, int16_t *out) {
    const Tables *tables = scan->tables;
    const Step *steps = tables->steps[ac];
    const uint8_t *at = scan->at;
    uint64_t bits = scan->bits;
    unsigned long left = scan->left, k = 1;
#define REFILL() (bits |= eight_bytes(at) >> left, at += (63 - left) >> 3, left |= 56)
#define DROP(count) (bits <<= (count), left -= (count))
    REFILL();
    Symbol symbol = next_symbol(tables->dc + dc, bits, 0);
    if (!symbol.bits) return 0;
    out[0] = scan->dc[component] += value_of(bits, symbol);
    if (out[0] != scan->dc[component]) return 0;
    DROP(symbol.bits);
    while (k < BLOCK) {
        REFILL();
#pragma GCC unroll 5
        for (int i = 0; i < STEPS; i++) {
            const Step *step = steps + (bits >> (64 - LOOK));
            if (__builtin_expect(!step->bits, 0)) goto alone;
            out[ZIGZAG[k + step->places[0]]] = step->values[0];
            out[ZIGZAG[k + step->places[1]]] = step->values[1];
            uint64_t before = bits;
            unsigned long count = step->bits;
            k += step->next;
            DROP(count);
            if (k >= BLOCK) {
                if (k == BLOCK || k - ENDED < BLOCK) goto ended;
                k -= step->next, left += count, bits = before; /* the second is the next block's */
                goto alone;
            }
        }
        continue;
    alone:
        REFILL();
        symbol = next_symbol(tables->ac + ac, bits, 1);
        if (!symbol.bits) return 0;
        if (symbol.value_bits) {
            k += symbol.zeros;
            out[ZIGZAG[k++]] = value_of(bits, symbol);
        } else k += symbol.zeros == 15 ? 16 : ENDED;
        DROP(symbol.bits);
    }
    if (k != BLOCK && k - ENDED >= BLOCK) return 0;
ended:
    scan->at = at, scan->bits = bits, scan->left = left;
    return 1;
}

static int refuse_scan(Decoder *decoder) {
    strcpy(decoder->message, "its scan is corrupt");
    longjmp(decoder->failed, 1);
}

/* For libjpeg: the next MCU. Its blocks are all 0; where they are NULL it is skipped. */
static int decode_mcu(Jpeg *jpeg, int16_t **blocks) {
    Decoder *decoder = (Decoder *)jpeg;
    Scan *scan = &decoder->scan;
    int16_t skipped[BLOCK];
    if (!scan->mcus_left) {
        if (!is_complete(scan) || scan->source[1] != 0xd0 + scan->restarts++ % 8) return refuse_scan(decoder);
        scan->source += 2;
        if (!next_interval(scan)) return refuse_scan(decoder);
        scan->mcus_left = jpeg->restart_interval;
    }
    scan->mcus_left--;
    for (int i = 0; i < jpeg->mcu_blocks; i++) {
        int number = jpeg->mcu_components[i];
        const Component *component = jpeg->scan[number];
        if (!decode_block(scan, number, component->dc, component->ac, blocks ? blocks[i] : skipped))
            return refuse_scan(decoder);
    }
    return bits_left(scan) >= 0 || refuse_scan(decoder);
}

/* After libjpeg's start: from here on coefficients are decoded here, where the JPEG is of the usual kind and libjpeg would
   have decoded them by the function that was found at load. Then a corrupt scan fails. Returns whether it is so. */
static int replace_entropy_decoder(Decoder *decoder) {
    Jpeg *jpeg = &decoder->jpeg;
    Scan *scan = &decoder->scan;
    static const int all[] = {0, BLOCK - 1, 0, 0};
    /* Most JPEGs have the same, so a thread keeps those of its last image, with the codes that they are of. */
    static _Thread_local Tables kept;
    Tables *tables = &kept;
    if (!replaced_decoder || !jpeg->entropy || jpeg->entropy->decode != replaced_decoder) return 0;
    if (jpeg->progressive || jpeg->arithmetic || jpeg->precision != 8 || jpeg->scan_components != jpeg->components ||
        memcmp(jpeg->spectrum, all, sizeof all))
        return 0;
    for (int i = 0; i < jpeg->scan_components; i++) {
        int dc = jpeg->scan[i]->dc, ac = jpeg->scan[i]->ac;
        if (!is_of(&tables->dc[dc], jpeg->codes[0][dc]) && !make_table(&tables->dc[dc], jpeg->codes[0][dc], 0)) return 0;
        if (is_of(&tables->ac[ac], jpeg->codes[1][ac])) continue;
        if (!make_table(&tables->ac[ac], jpeg->codes[1][ac], 1)) return 0;
        make_steps(tables->steps[ac], &tables->ac[ac]);
    }
    if (!has_copy(decoder->scratch, jpeg->source->bytes)) return 0;
    scan->tables = tables;
    scan->copy = decoder->scratch->copy;
    scan->source = jpeg->source->next;
    scan->source_end = scan->source + jpeg->source->bytes;
    scan->mcus_left = jpeg->restart_interval ? jpeg->restart_interval : ~0u;
    if (!next_interval(scan)) return 0;
    jpeg->entropy->decode = decode_mcu;
    return 1;
}

/* Before libjpeg's finish, which reads what follows the scan. Returns whether all of the scan was read. */
static int hand_back(Decoder *decoder) {
    Source *source = decoder->jpeg.source;
    source->next = decoder->scan.source;
    source->bytes = decoder->scan.source_end - source->next;
    return is_complete(&decoder->scan);
}
