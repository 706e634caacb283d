/* The kernels for x86-64-v3: see kernels.c. */

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#else
#pragma GCC target("arch=x86-64-v3")
#endif

#define HAS_AVX2
#define VARIANT v3
#include "kernels.c"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
