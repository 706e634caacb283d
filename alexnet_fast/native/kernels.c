/* What is compiled once for each kind of processor, into one library: this file is compiled by itself with plain
   instructions, and included by x86_64_v3.c and x86_64_v4.c with those of their processors. */

#ifndef VARIANT
#define VARIANT plain
#endif

#include "huffman.c"
#include "axis.c"
#include "resize.c"
#include "crops.c"
#include "statistics.c"
#include "lrn.c"
