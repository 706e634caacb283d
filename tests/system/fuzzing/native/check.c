#include "check.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN
#endif
#endif

#ifdef HAS_ASAN
size_t __sanitizer_get_current_allocated_bytes(void); /* in sanitizer/allocator_interface.h, which gcc lacks on Debian */
size_t allocated_bytes(void) { return __sanitizer_get_current_allocated_bytes(); }
#else
size_t allocated_bytes(void) { return 0; }
#endif

Counts counts;

void print_counts(void) {
    fprintf(stderr, "stat::decoded: %ld\nstat::clean: %ld\nstat::accepted: %ld\nstat::ours: %ld\nstat::usual: %ld\nstat::left: %ld\n"
            "stat::between: %ld\n", counts.decoded, counts.clean, counts.accepted, counts.ours, counts.usual, counts.left, counts.between);
}
