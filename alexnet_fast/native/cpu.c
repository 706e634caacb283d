#include "native.h"

#ifdef __x86_64__
#include <cpuid.h>

/* Those of x86-64-v3 that compilers' own tests do not know by name. */
static int has_lzcnt_movbe_f16c(void) {
    unsigned a, b, basic = 0, extended = 0, d;
    __get_cpuid(1, &a, &b, &basic, &d);
    __get_cpuid(0x80000001, &a, &b, &extended, &d);
    return (extended >> 5 & 1) && (basic >> 22 & 1) && (basic >> 29 & 1);
}
#endif

/* The kernels that this processor runs: 0 plain, 1 also v3, 2 also v4 (see kernels.c). */
EXPORT int newest_variant(void) {
#ifdef __x86_64__
#define HAS(feature) __builtin_cpu_supports(feature)
    __builtin_cpu_init();
    if (!HAS("avx2") || !HAS("bmi") || !HAS("bmi2") || !HAS("fma") || !has_lzcnt_movbe_f16c()) return 0;
    return HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl") ? 2 : 1;
#else
    return 0;
#endif
}
