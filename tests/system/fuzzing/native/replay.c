/* Where there is no libFuzzer: replay PACK FIRST PROGRESS gives every input of a pack from number FIRST on to the fuzzer.
   The file PROGRESS holds the number of the input under way, so that after a crash one knows which it was. */

#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "pack.h"

enum { SECONDS = 30 }; /* an input */

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int main(int count, char **arguments) {
    CHECK(count == 4, "replay PACK FIRST PROGRESS");
    Pack pack = read_pack(arguments[1]);
    FILE *progress = fopen(arguments[3], "w");
    CHECK(progress, "%s cannot be written", arguments[3]);
    LLVMFuzzerInitialize(&count, &arguments);
    for (int i = atoi(arguments[2]); i < pack.count; i++) {
        rewind(progress);
        fprintf(progress, "%d\n", i);
        fflush(progress);
        alarm(SECONDS);
        uint8_t *copy = copy_of(pack.items[i].data, pack.items[i].bytes);
        LLVMFuzzerTestOneInput(copy, pack.items[i].bytes);
        free(copy);
    }
    free_pack(&pack);
    fclose(progress);
    return 0;
}
