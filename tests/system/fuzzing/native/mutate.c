/* libFuzzer's own changes, but of the trailer alone or of what precedes it alone, as often as of both. */

#include <string.h>

#include "input.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed) {
    uint8_t trailer[TRAILER];
    if (bytes <= TRAILER || seed % 3 == 0) return LLVMFuzzerMutate(data, bytes, room);
    if (seed % 3 == 1) {
        size_t more = LLVMFuzzerMutate(data + bytes - TRAILER, TRAILER, TRAILER);
        memset(data + bytes - TRAILER + more, 0, TRAILER - more);
        return bytes;
    }
    memcpy(trailer, data + bytes - TRAILER, TRAILER);
    bytes = LLVMFuzzerMutate(data, bytes - TRAILER, room - TRAILER);
    memcpy(data + bytes, trailer, TRAILER);
    return bytes + TRAILER;
}
