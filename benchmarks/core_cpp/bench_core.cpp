// The tree core without Python: microseconds per simulation (select + expand 3 + back up) beside a plain flat-array loop
// and two floors, and per power draw. One JSON object a line.
//
//     bench_core sims   N [REPEATS]     uct simulations in one tree: ours, the plain loop, the floors
//     bench_core power  N [REPEATS]     power draws over N nodes
//     bench_core forest N [REPEATS [TREES [THREADS]]]    N waves of one simulation in each tree
//     bench_core profile N              ours alone, for callgrind
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "flat_baseline.h"
#include "forest.h"
#include "rng.h"
#include "tree.h"

namespace {

using bavt::NodeId;
using bavt::Policy;
using bavt::SelectArgs;
using bavt::Tree;
using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Median and best of several runs of `run`, which returns microseconds per item.
void report(const char* what, size_t n, int repeats, const std::function<double()>& run) {
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) times.push_back(run());
    std::sort(times.begin(), times.end());
    std::printf("{\"what\": \"%s\", \"n\": %zu, \"us_median\": %.4f, \"us_min\": %.4f, \"repeats\": %d}\n", what, n,
                times[times.size() / 2], times.front(), repeats);
    std::fflush(stdout);
}

// Values that lead the search to some children more than to others, made before the clock starts. Every run takes another
// stretch of them: a processor that has seen the same search before predicts its branches, which no real search lets it.
std::vector<double> random_values(size_t count, uint64_t seed) {
    bavt::CounterRng rng(seed);
    std::vector<double> values(count);
    for (double& value : values) value = rng.uniform();
    return values;
}

void simulate(Tree& tree, size_t n, const double* values, std::vector<NodeId>* leaves) {
    SelectArgs args;
    for (size_t i = 0; i < n; ++i) {
        const NodeId leaf = tree.select(Policy::kUct, args);
        if (leaves != nullptr) leaves->push_back(leaf);
        const double* v = values + 3 * i;
        tree.backup(tree.expand(leaf, v, nullptr, nullptr, 3), v[0], bavt::Backup::kMean);
    }
}

double time_ours(size_t n, const double* values) {
    auto tree = std::make_unique<Tree>(bavt::TreeOptions{});
    const auto start = Clock::now();
    simulate(*tree, n, values, nullptr);
    return microseconds_since(start) / static_cast<double>(n);
}

double time_flat(size_t n, const double* values) {
    auto tree = std::make_unique<bench::FlatTree>();
    const auto start = Clock::now();
    for (size_t i = 0; i < n; ++i) {
        const double* v = values + 3 * i;
        tree->backup(tree->expand(tree->select(1.0), v, 3), v[0]);
    }
    return microseconds_since(start) / static_cast<double>(n);
}

// Floor 1: the same walks over the finished tree with the chosen child known beforehand: dependent loads, no scoring.
// Every node holds the id of the next one on the walk, in a 16-byte record as the tree's.
double time_known_descents(size_t n, const Tree& tree, const std::vector<NodeId>& leaves) {
    struct Record {
        uint64_t padding;
        uint32_t next, end;
    };
    std::vector<uint32_t> begins{0};
    std::vector<NodeId> steps;
    for (const NodeId leaf : leaves) {
        const size_t begin = steps.size();
        for (NodeId node = leaf; node != bavt::kNone; node = tree.parents()[node]) steps.push_back(node);
        std::reverse(steps.begin() + static_cast<std::ptrdiff_t>(begin), steps.end());
        begins.push_back(static_cast<uint32_t>(steps.size()));
    }
    std::vector<Record> records(tree.num_nodes());
    volatile uint32_t sink = 0;
    const auto start = Clock::now();
    uint32_t zero = 0;  // what every record holds: it chains each load to the one before, as in a search
    for (size_t i = 0; i < n; ++i) {
        for (uint32_t s = begins[i]; s < begins[i + 1]; ++s) zero = records[steps[s] + zero].next;
    }
    sink = zero;
    (void)sink;
    return microseconds_since(start) / static_cast<double>(n);
}

// Floor 2: one plain read of the bytes that the tree takes.
double time_plain_read(size_t n, const Tree& tree) {
    const auto* words = reinterpret_cast<const uint64_t*>(tree.hot());
    const size_t count = size_t{tree.num_nodes()} * sizeof(bavt::Hot) / 8;
    volatile uint64_t sink = 0;
    const auto start = Clock::now();
    uint64_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += words[i];
    sink = sum;
    (void)sink;
    return microseconds_since(start) / static_cast<double>(n);
}

void bench_sims(size_t n, int repeats) {
    const auto values = random_values(3 * (n + 1000 * static_cast<size_t>(repeats)), 1);
    Tree finished{bavt::TreeOptions{}};
    std::vector<NodeId> leaves;
    simulate(finished, n, values.data(), &leaves);
    size_t ours = 0, flat = 0;
    report("uct_simulation", n, repeats, [&] { return time_ours(n, &values[3000 * ours++]); });
    report("flat_simulation", n, repeats, [&] { return time_flat(n, &values[3000 * flat++]); });
    report("floor_known_descents", n, repeats, [&] { return time_known_descents(n, finished, leaves); });
    report("floor_plain_read", n, repeats, [&] { return time_plain_read(n, finished); });
}

void bench_power(size_t n, int repeats) {
    Tree tree{bavt::TreeOptions{}};
    const auto values = random_values(n, 2);
    tree.expand(bavt::kRoot, values.data(), nullptr, nullptr, static_cast<uint32_t>(n));
    SelectArgs args;
    tree.select(Policy::kPower, args);
    bavt::CounterRng rng(3);
    constexpr int kDraws = 20000;
    report("power_draw", n, repeats, [&] {
        const auto start = Clock::now();
        for (int i = 0; i < kDraws; ++i) {
            args.remaining = 1.0 - static_cast<double>(i) / kDraws;  // r changes at every draw
            (void)tree.select(Policy::kPower, args);
        }
        return microseconds_since(start) / kDraws;
    });
}

void bench_forest(size_t n, int repeats, uint32_t trees, unsigned threads) {
    const auto values = random_values(3 * trees * 16, 4);
    std::vector<size_t> offsets;
    for (size_t i = 0; i <= trees; ++i) offsets.push_back(3 * i);
    std::vector<double> first_values(trees);
    report("forest_simulation", n, repeats, [&] {
        bavt::Forest forest(trees, {}, threads);
        const auto start = Clock::now();
        for (size_t wave = 0; wave < n; ++wave) {
            const double* v = &values[3 * trees * (wave % 16)];
            for (uint32_t i = 0; i < trees; ++i) first_values[i] = v[3 * i];
            const bavt::Selection leaves = forest.select(Policy::kUct, {}, nullptr, 1, SIZE_MAX);
            const bavt::Wave pairs{leaves.trees.data(), leaves.nodes.data(), leaves.nodes.size()};
            const auto first = forest.expand(pairs, {offsets.data(), v, nullptr, nullptr});
            forest.backup({leaves.trees.data(), first.data(), first.size()}, first_values.data(), bavt::Backup::kMean);
        }
        return microseconds_since(start) / static_cast<double>(n * trees);
    });
}

}  // namespace

int main(int argc, char** argv) {
    const auto is = [&](const char* name) { return std::strcmp(argv[1], name) == 0; };
    const auto number = [&](int i, long otherwise) { return i < argc ? std::strtol(argv[i], nullptr, 10) : otherwise; };
    if (argc < 3 || number(2, 0) < 1) {
        std::fprintf(stderr, "usage: bench_core sims|power|forest|profile N [REPEATS [TREES [THREADS]]]\n");
        return 2;
    }
    const auto n = static_cast<size_t>(number(2, 0));
    const int repeats = static_cast<int>(number(3, 5));
    if (is("sims")) bench_sims(n, repeats);
    if (is("power")) bench_power(n, repeats);
    if (is("forest")) {
        bench_forest(n, repeats, static_cast<uint32_t>(number(4, 1024)), static_cast<unsigned>(number(5, 1)));
    }
    if (is("profile")) time_ours(n, random_values(3 * n, 1).data());
    return 0;
}
