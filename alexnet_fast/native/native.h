/* What all C files share. Functions are hidden outside the library unless they are exported. */

#ifndef NATIVE_H
#define NATIVE_H

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_POINTER__ != 8
#error "written for 64-bit little-endian processors"
#endif

#define EXPORT __attribute__((visibility("default")))

/* Kernels are compiled once for each VARIANT of the processor (see kernels.c), which ends their names. */
#define JOINED(name, variant) name##_##variant
#define NAMED(name, variant) JOINED(name, variant)
#define KERNEL(type, name) EXPORT type NAMED(name, VARIANT)

#endif
