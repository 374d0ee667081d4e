// Several threads use one forest, which has worker threads of its own: run under ThreadSanitizer by tests/sanitize.sh.
// Checks that what comes out does not depend on the threads; exits with 1 where it does.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tree/forest.h"

namespace {

using bavt::Forest;

constexpr uint32_t kTrees = 300;
constexpr uint32_t kFinishedFrom = 240;  // nothing is selected in these, so that they may be rerooted
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

void mark_and_reroot(Forest& forest, const bavt::Wave& pair, uint32_t i) {
    const bavt::TreeId tree = pair.trees[0];
    const bavt::NodeId last = forest.num_nodes()[tree] - 1;
    const bavt::Wave newest{&tree, &last, 1};
    if (i % 3 == 0) forest.penalize(newest);
    if (i % 5 == 0) forest.close(newest);
    if (i % 7 == 0) forest.mark_terminal(newest);
    if (i % 11 == 0) forest.prune(newest);
    forest.with_tree(tree, [&](bavt::Tree& t) {
        (void)t.best_path();
        if (tree >= kFinishedFrom) t.reroot(1);
    });
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
        mark_and_reroot(forest, pair, i);
    }
}

// Until the others are done: leaves that are handed out and given back, snapshots that are loaded again, trees that come
// and go. None of it may leave a trace in the trees that are compared.
void disturb(Forest& forest, const std::atomic<bool>& done) {
    while (!done) {
        const bavt::Selection leaves = forest.select(bavt::Policy::kUct, {}, nullptr, 1, 64);
        forest.cancel({leaves.trees.data(), leaves.nodes.data(), leaves.nodes.size()});
        const std::string saved = forest.to_bytes();
        if (Forest::from_bytes(saved.data(), saved.size(), 2)->to_bytes() != saved) std::abort();
        const bavt::TreeId added = forest.add(0.5);
        forest.finish(added);
        forest.drop(added);
    }
}

std::vector<std::string> grown(unsigned workers, bool together) {
    Forest forest(kTrees, {}, workers);
    run_waves(forest);
    for (bavt::TreeId tree = kFinishedFrom; tree < kTrees; ++tree) forest.finish(tree);
    std::atomic<bool> done{!together};
    std::thread disturber(disturb, std::ref(forest), std::cref(done));
    std::vector<std::thread> callers;
    for (uint32_t caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back(work_on_own_trees, std::ref(forest), caller);
        if (!together) callers.back().join();
    }
    for (std::thread& caller : callers) {
        if (caller.joinable()) caller.join();
    }
    done = true;
    disturber.join();
    std::vector<std::string> trees;
    for (uint32_t tree = 0; tree < kTrees; ++tree) {
        trees.push_back(forest.with_tree(tree, [](const bavt::Tree& t) { return t.to_bytes(); }));
    }
    return trees;
}

// Jobs follow one another at once, over the same plain numbers.
bool counts_right(unsigned workers) {
    constexpr size_t kItems = 1000, kJobs = 500;
    bavt::Workers crew(workers);
    std::vector<size_t> counts(kItems, 0);
    std::atomic<size_t> ranges{0};
    for (size_t job = 0; job < kJobs; ++job) {
        crew.run(kItems, 10, true, [&](size_t begin, size_t end) {
            ++ranges;
            for (size_t i = begin; i < end; ++i) counts[i] += i + job;
        });
    }
    std::printf("%u workers: %zu ranges in %zu jobs\n", workers, ranges.load(), kJobs);
    for (size_t i = 0; i < kItems; ++i) {
        if (counts[i] != kJobs * i + kJobs * (kJobs - 1) / 2) return false;
    }
    return true;
}

// The error of the first range that fails comes out, whoever ran it, and the next job is not touched by it.
bool fails_right(unsigned workers) {
    bavt::Workers crew(workers);
    for (size_t job = 0; job < 200; ++job) {
        std::string told = "nothing";
        try {
            crew.run(400, 10, true, [&](size_t begin, size_t end) {
                if (begin <= 390 && end > 205) throw std::runtime_error(begin <= 205 ? "first" : "later");
            });
        } catch (const std::runtime_error& error) {
            told = error.what();
        }
        if (told != "first") return false;
    }
    return true;
}

}  // namespace

int main() {
    for (const unsigned workers : {1u, 2u, 4u}) {
        if (!counts_right(workers) || !fails_right(workers)) {
            std::fprintf(stderr, "%u workers did not do each piece once\n", workers);
            return 1;
        }
    }
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
