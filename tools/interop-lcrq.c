/* Makes RaptorQ repair symbols with liblcrq (Debian: liblcrq-dev), an implementation of RFC 6330
 * that shares nothing with ours. Built and run by tests/interop/lcrq.rs alone.
 *
 *   interop-lcrq BLOCK_SIZE SYMBOL_SIZE ESI... <block >symbols */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <lcrq.h>

static void demand(int is_met, const char *what)
{
    if (!is_met) {
        fprintf(stderr, "interop-lcrq: %s\n", what);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    demand(argc >= 3, "BLOCK_SIZE SYMBOL_SIZE ESI...");
    size_t block_size = strtoul(argv[1], NULL, 10);
    uint16_t symbol_size = (uint16_t)strtoul(argv[2], NULL, 10);

    /* Room for the last symbol, which may be cut. */
    uint8_t *block = calloc(1, block_size + symbol_size);
    uint8_t *symbol = malloc(symbol_size);
    demand(block && symbol, "no memory");
    demand(fread(block, 1, block_size, stdin) == block_size, "the block is cut");

    /* With less working memory it would cut the block into sub-blocks, as we never do. */
    RQ_WS_DEFAULT = (size_t)1 << 30;
    rq_t *rq = rq_init(block_size, symbol_size);
    demand(rq && rq_Z(rq) == 1 && rq_N(rq) == 1, "more than one block or sub-block");
    demand(rq_encode(rq, block, block_size) == 0, "rq_encode failed");
    for (int at = 3; at < argc; at++) {
        uint32_t esi = (uint32_t)strtoul(argv[at], NULL, 10);
        rq_pid_t id = 0;
        id = rq_pidsetesi(id, esi);
        demand(rq_symbol(rq, &id, symbol, RQ_REPAIR) != NULL, "rq_symbol failed");
        demand(rq_pid2esi(id) == esi, "rq_symbol made another symbol");
        demand(fwrite(symbol, 1, symbol_size, stdout) == symbol_size, "cannot write");
    }
    rq_free(rq);
    free(symbol);
    free(block);
    return 0;
}
