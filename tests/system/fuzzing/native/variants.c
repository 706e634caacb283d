#include "variants.h"

int newest_variant(void); /* cpu.c */

#define DECLARE(variant) \
    Crops crops_##variant; MiddleOfPixels middle_##variant; MiddleOfJpeg jpeg_middle_##variant;
#define LIST(variant) {crops_##variant, middle_##variant, jpeg_middle_##variant}

DECLARE(plain)
#ifdef __x86_64__
DECLARE(v3)
DECLARE(v4)
#endif

static const Kernels all[] = {
    LIST(plain),
#ifdef __x86_64__
    LIST(v3),
    LIST(v4),
#endif
};

const Kernels *kernels_of(int choice) {
    int newest = newest_variant();
    return &all[choice < 2 ? newest : choice == 2 && newest > 1 ? 1 : 0];
}
