/* Preloaded into lua5.4 behind the libraries of the sanitizers (./dev asan): what Lua starts must not inherit them. */
#include <stdlib.h>

__attribute__((constructor)) static void forget(void)
{
    unsetenv("LD_PRELOAD");
}
