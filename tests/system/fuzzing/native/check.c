#include "check.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN
#endif
#endif

static _Thread_local long blocks;

#ifdef HAS_ASAN
/* In sanitizer/allocator_interface.h, which gcc lacks on Debian. Its count of allocated bytes goes over all threads that there
   ever were, which takes longer with every input. */
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t), void (*)(const volatile void *));
static void allocated(const volatile void *block, size_t bytes) { (void)bytes; blocks += block != NULL; }
static void freed(const volatile void *block) { blocks -= block != NULL; }
__attribute__((constructor)) static void count_blocks(void) {
    CHECK(__sanitizer_install_malloc_and_free_hooks(allocated, freed), "allocations cannot be counted");
}
#endif

long allocated_blocks(void) { return blocks; }

Counts counts;

void print_counts(void) {
    fprintf(stderr, "stat::decoded: %ld\nstat::clean: %ld\nstat::accepted: %ld\nstat::ours: %ld\nstat::usual: %ld\nstat::left: %ld\n"
            "stat::between: %ld\n", counts.decoded, counts.clean, counts.accepted, counts.ours, counts.usual, counts.left, counts.between);
}
