// Several threads use one forest, which has worker threads of its own: run under ThreadSanitizer by tests/sanitize.sh.
// Checks that what comes out does not depend on the threads; exits with 1 where it does.
#include <cstdio>
#include <thread>
#include <vector>

#include "forest.h"

namespace {

using bavt::Forest;

constexpr uint32_t kTrees = 300;
constexpr int kCallers = 3;
constexpr int kWaves = 40;

void run_waves(Forest& forest) {
    const bavt::SelectArgs args;
    for (int wave = 0; wave < kWaves; ++wave) {
        const auto policy = wave % 2 == 0 ? bavt::Policy::kPower : bavt::Policy::kUct;
        const bavt::Selection leaves = forest.select(policy, args, nullptr, 2, SIZE_MAX);
        const bavt::Wave pairs{leaves.trees.data(), leaves.nodes.data(), leaves.nodes.size()};
        std::vector<size_t> offsets(pairs.size + 1);
        for (size_t i = 0; i <= pairs.size; ++i) offsets[i] = 2 * i;
        const std::vector<double> values(2 * pairs.size, 0.5);
        const auto first = forest.expand(pairs, {offsets.data(), values.data(), nullptr, nullptr});
        forest.backup({leaves.trees.data(), first.data(), pairs.size}, values.data(), bavt::Backup::kMean);
    }
}

// Trees of its own for each caller, other callers at the same time.
void work_on_own_trees(Forest& forest, uint32_t caller) {
    for (uint32_t i = 0; i < 200; ++i) {
        const bavt::TreeId tree = caller + kCallers * (i % (kTrees / kCallers));
        const bavt::NodeId root = bavt::kRoot;
        const bavt::Wave pair{&tree, &root, 1};
        const size_t offsets[] = {0, 2};
        const double values[] = {0.25, 0.75};
        forest.expand(pair, {offsets, values, nullptr, nullptr});
        forest.backup(pair, values, bavt::Backup::kMax);
        (void)forest.num_nodes();
    }
}

std::vector<std::string> grown(unsigned workers, bool together) {
    Forest forest(kTrees, {}, workers);
    run_waves(forest);
    std::vector<std::thread> callers;
    for (uint32_t caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back(work_on_own_trees, std::ref(forest), caller);
        if (!together) callers.back().join();
    }
    for (std::thread& caller : callers) {
        if (caller.joinable()) caller.join();
    }
    std::vector<std::string> trees;
    for (uint32_t tree = 0; tree < kTrees; ++tree) {
        trees.push_back(forest.with_tree(tree, [](const bavt::Tree& t) { return t.to_bytes(); }));
    }
    return trees;
}

}  // namespace

int main() {
    const auto alone = grown(1, false);
    for (const unsigned workers : {1u, 2u, 4u}) {
        if (grown(workers, true) != alone) {
            std::fprintf(stderr, "%u workers gave another forest\n", workers);
            return 1;
        }
    }
    std::puts("the same forest with 1, 2 and 4 workers");
    return 0;
}
