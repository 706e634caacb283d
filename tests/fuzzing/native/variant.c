/* The kernels of one variant, KERNELS being the file that has them, and what makes their thread forget its last image,
   or tells whether it made tables of one. */

#include KERNELS

void NAMED(forget_tables, VARIANT)(void) { memset(&tables, 0, sizeof tables); }

int NAMED(has_tables, VARIANT)(void) {
    for (int i = 0; i < 4; i++)
        if (tables.ac[i].is_made) return 1;
    return 0;
}
