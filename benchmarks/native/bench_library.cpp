// The tree core for the benchmarks: plain C functions that Python calls through ctypes once per timed round, so that
// pytest-benchmark keeps the clock and the statistics while nothing of Python runs inside of a round.
//
// `*_new` makes what a round needs and `*_free` ends it, both outside of the timed part. Values come from the caller,
// fresh for every round: a processor that has seen the same search before predicts its branches, which no real search
// lets it.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "descents.h"
#include "flat_baseline.h"
#include "simulate.h"
#include "tree/forest.h"
#include "tree/tree.h"

#define BENCH_API extern "C" __attribute__((visibility("default")))

namespace {

using bavt::Tree;
using bench::kBranching;

// Several trees for one round, where one small tree alone would be over too soon for the clock.
struct Trees {
    std::vector<std::unique_ptr<Tree>> trees;
};

struct FlatTrees {
    std::vector<std::unique_ptr<bench::FlatTree>> trees;
};

struct Waves {
    Waves(uint32_t trees, unsigned threads) : forest(trees, {}, threads) {
        for (size_t i = 0; i <= trees; ++i) offsets.push_back(kBranching * i);
    }
    uint32_t num_trees() const { return static_cast<uint32_t>(offsets.size() - 1); }
    bavt::Forest forest;
    std::vector<size_t> offsets;
};

std::atomic<uint64_t> sink;  // what is read must be used, or the compiler leaves the reading out

}  // namespace

// ---- One tree after the other: tree t takes values[3 * n * t ...] ---------------------------------------------------

BENCH_API Trees* trees_new(uint32_t count) {
    auto made = std::make_unique<Trees>();
    for (uint32_t i = 0; i < count; ++i) made->trees.push_back(std::make_unique<Tree>(bavt::TreeOptions{}));
    return made.release();
}

BENCH_API void trees_free(Trees* trees) { delete trees; }

BENCH_API void trees_uct(Trees* trees, size_t n, const double* values) {
    for (auto& tree : trees->trees) {
        bench::simulate_uct(*tree, n, values);
        values += kBranching * n;
    }
}

BENCH_API void trees_power(Trees* trees, size_t n, const double* values) {
    for (auto& tree : trees->trees) {
        bench::simulate_power(*tree, n, values);
        values += kBranching * n;
    }
}

BENCH_API FlatTrees* flat_new(uint32_t count) {
    auto made = std::make_unique<FlatTrees>();
    for (uint32_t i = 0; i < count; ++i) made->trees.push_back(std::make_unique<bench::FlatTree>());
    return made.release();
}

BENCH_API void flat_free(FlatTrees* trees) { delete trees; }

BENCH_API void flat_uct(FlatTrees* trees, size_t n, const double* values) {
    for (auto& tree : trees->trees) {
        for (size_t i = 0; i < n; ++i) {
            const double* v = values + kBranching * i;
            tree->backup(tree->expand(tree->select(1.0), v, kBranching), v[0]);
        }
        values += kBranching * n;
    }
}

// ---- Floors --------------------------------------------------------------------------------------------------------

BENCH_API bench::KnownDescents* descents_new(size_t n, const double* values) {
    return new bench::KnownDescents(n, values);
}

BENCH_API void descents_free(bench::KnownDescents* descents) { delete descents; }

BENCH_API void descents_follow(const bench::KnownDescents* descents, uint32_t passes) {
    for (uint32_t i = 0; i < passes; ++i) sink = descents->follow();
}

BENCH_API void descents_read(const bench::KnownDescents* descents, uint32_t passes) {
    for (uint32_t i = 0; i < passes; ++i) sink = descents->read();
}

BENCH_API uint64_t descents_bytes(const bench::KnownDescents* descents) { return descents->bytes_scored(); }

// ---- Power draws ---------------------------------------------------------------------------------------------------

// A tree of `nodes` nodes that are all open, ranked by a first draw.
BENCH_API Tree* drawn_new(uint32_t nodes, const double* values) {
    auto tree = std::make_unique<Tree>(bavt::TreeOptions{});
    tree->expand(bavt::kRoot, values, nullptr, nullptr, nodes - 1);
    tree->select(bavt::Policy::kPower, {});
    return tree.release();
}

BENCH_API void drawn_free(Tree* tree) { delete tree; }

// r falls from 1 towards 0 and changes at every draw. The tree's random numbers go on from round to round.
BENCH_API void drawn_draw(Tree* tree, uint32_t draws) {
    bavt::SelectArgs args;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < draws; ++i) {
        args.remaining = 1.0 - static_cast<double>(i) / draws;
        sum += tree->select(bavt::Policy::kPower, args);
    }
    sink = sum;
}

// ---- Waves over a forest -------------------------------------------------------------------------------------------

BENCH_API Waves* waves_new(uint32_t trees, uint32_t threads) { return new Waves(trees, threads); }

// Every tree a root again, in the memory that the last round left.
BENCH_API void waves_renew(Waves* waves) {
    for (uint32_t i = 0; i < waves->num_trees(); ++i) {
        waves->forest.drop(i);
        waves->forest.add(1.0);
    }
}

BENCH_API void waves_free(Waves* waves) { delete waves; }

// `count` waves of one simulation in each tree. values: (count, trees, 3); first_values: (count, trees), their first ones.
BENCH_API void waves_uct(Waves* waves, size_t count, const double* values, const double* first_values) {
    const size_t trees = waves->num_trees();
    for (size_t i = 0; i < count; ++i) {
        const bavt::Selection leaves =
            waves->forest.select(bavt::Policy::kUct, {}, nullptr, 1, std::numeric_limits<size_t>::max());
        const bavt::Wave wave{leaves.trees.data(), leaves.nodes.data(), leaves.nodes.size()};
        const auto first = waves->forest.expand(wave, {waves->offsets.data(), values, nullptr, nullptr});
        waves->forest.backup({leaves.trees.data(), first.data(), first.size()}, first_values, bavt::Backup::kMean);
        values += kBranching * trees;
        first_values += trees;
    }
}

// ---- The machine ---------------------------------------------------------------------------------------------------

// `steps` dependent multiplications and additions on each thread, which share nothing: what a second thread is worth.
BENCH_API void arithmetic(uint32_t threads, uint64_t steps) {
    const auto work = [steps] {
        double x = 1.0;
        for (uint64_t i = 0; i < steps; ++i) x = x * 1.0000001 + 1e-9;
        sink = static_cast<uint64_t>(x);
    };
    std::vector<std::thread> others;
    for (uint32_t i = 1; i < threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
}
