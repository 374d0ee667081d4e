// One search and nothing else, for perf and callgrind.
//
//     cmake --build build/bench --target profile_core       (after `make bench` or `make bench-quick`)
//     build/bench/profile_core uct|power N [SEED]           N simulations in one tree
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "simulate.h"
#include "tree/rng.h"

int main(int argc, char** argv) {
    const long n = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 0;
    const bool uct = argc > 1 && std::strcmp(argv[1], "uct") == 0;
    if (n < 1 || (!uct && std::strcmp(argv[1], "power") != 0)) {
        std::fprintf(stderr, "usage: profile_core uct|power N [SEED]\n");
        return 2;
    }
    bavt::CounterRng rng(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
    std::vector<double> values(bench::kBranching * static_cast<size_t>(n));
    for (double& value : values) value = rng.uniform();
    bavt::Tree tree{bavt::TreeOptions{}};
    if (uct) bench::simulate_uct(tree, static_cast<size_t>(n), values.data());
    if (!uct) bench::simulate_power(tree, static_cast<size_t>(n), values.data());
    std::printf("%u nodes\n", tree.num_nodes());
    return 0;
}
