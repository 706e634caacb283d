/* The kernels for x86-64-v4: see kernels.c. */

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4"))), apply_to = function)
#else
#pragma GCC target("arch=x86-64-v4")
#endif

#define HAS_AVX2
#define HAS_AVX512
#define VARIANT v4
#include "kernels.c"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
