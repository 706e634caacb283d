/* libjpeg's structures as ABI version 6.2 has them (jpeglib.h, jpegint.h of libjpeg-turbo), so that neither its headers
   nor its library are needed to compile. libjpeg itself compares version and size when it creates a decompressor; that
   private members lie where they are expected is tested before any is used (libjpeg.c). */

#ifndef ABI_H
#define ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ABI = 62, ABI_SIZE = 632, RGB = 2 };
typedef struct Jpeg Jpeg; /* jpeg_decompress_struct */
typedef struct {
    void (*error_exit)(Jpeg *);
    void (*emit_message)(Jpeg *, int level);
    void (*output_message)(Jpeg *);
    void (*format_message)(Jpeg *, char *buffer); /* of 200 bytes */
    void *rest[17];
} Errors;
typedef struct { uint8_t lengths[17], symbols[256]; int sent; } Code; /* JHUFF_TBL */
typedef struct { int numbers[5], dc, ac; } Component;                 /* and more */
typedef struct { const uint8_t *next; size_t bytes; } Source;         /* and more */
typedef int DecodeMcu(Jpeg *, int16_t **blocks);                      /* NULL: to skip the MCU */
typedef struct {
    void (*start)(Jpeg *);
    DecodeMcu *decode;
} Entropy; /* and more */
struct Jpeg {
    Errors *errors;
    void *memory, *progress, *client_data;
    int is_decompressor, state;
    Source *source;
    unsigned width, height;
    int components, jpeg_colours, out_colours;
    unsigned scale_num, scale_denom;
    double gamma;
    int buffered_image, raw_data_out, dct_method, do_fancy_upsampling, do_block_smoothing, quantize_colours;
    int dither_mode, two_pass_quantize, desired_colours, enable_quantizers[3];
    unsigned out_width, out_height;
    int out_colour_components, out_components, rows_in_buffer, actual_colours;
    void *colourmap;
    unsigned out_row;
    int input_scan;
    unsigned input_row;
    int output_scan;
    unsigned output_row;
    void *coefficient_bits, *quantisation[4];
    const Code *codes[2][4]; /* dc, ac */
    int precision;
    void *component_info;
    int progressive, arithmetic;
    uint8_t arithmetic_tables[48];
    unsigned restart_interval;
    char application[36];
    int largest_h, largest_v, smallest_dct;
    unsigned rows;
    void *range_limit;
    int scan_components;
    const Component *scan[4];
    unsigned mcus_per_row, mcu_rows;
    int mcu_blocks, mcu_components[10], spectrum[4], unread_marker;
    void *master, *main, *coefficients, *post, *input, *marker;
    Entropy *entropy;
    void *idct, *upsample, *convert, *quantize;
};
typedef char abi_size_fits[sizeof(Jpeg) == ABI_SIZE ? 1 : -1];

#endif
