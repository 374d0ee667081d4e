// libFuzzer target: the bytes of a forest's snapshot.
#include <stdexcept>

#include "target.h"
#include "tree/forest.h"
#include "use_tree.h"

namespace {

using bavt::Forest;
using bavt::NodeId;
using bavt::Policy;

std::unique_ptr<Forest> loaded(const std::string& bytes, unsigned threads) {
    return Forest::from_bytes(bytes.data(), bytes.size(), threads);
}

std::vector<bavt::TreeId> trees_of(Forest& forest) {
    std::vector<bavt::TreeId> trees;
    const std::vector<uint32_t> nodes = forest.num_nodes();
    for (bavt::TreeId tree = 0; tree < nodes.size(); ++tree) {
        if (nodes[tree] > 0) trees.push_back(tree);
    }
    return trees;
}

bool can_back_up(Forest& forest) {
    bool can = true;
    for (const bavt::TreeId tree : trees_of(forest)) {
        forest.with_tree(tree, [&](const bavt::Tree& t) {
            for (NodeId node = 0; node < t.num_nodes(); ++node) can &= t.hot()[node].visits < UINT32_MAX - 64;
        });
    }
    return can;
}

// One wave of everything that is done to waves; returns the leaves that were selected.
std::vector<NodeId> wave(Forest& forest, forge::Draws draws) {
    constexpr Policy kPolicies[] = {Policy::kPower, Policy::kBestFirst, Policy::kUcb, Policy::kUct, Policy::kPuct};
    const bavt::Selection leaves = forest.select(kPolicies[draws.below(5)], {}, nullptr,
                                                 static_cast<uint32_t>(1 + draws.below(3)), 1 + draws.below(12));
    const bavt::Wave pairs{leaves.trees.data(), leaves.nodes.data(), leaves.nodes.size()};
    std::vector<size_t> offsets{0};
    std::vector<double> values;
    for (size_t i = 0; i < pairs.size; ++i) {
        for (uint64_t child = draws.below(4); child > 0; --child) values.push_back(draws.unit());
        offsets.push_back(values.size());
    }
    const std::string before = forest.to_bytes();
    try {
        const std::vector<NodeId> first = forest.expand(pairs, {offsets.data(), values.data(), nullptr, nullptr});
        values.resize(pairs.size, 0.5);
        forest.backup({leaves.trees.data(), first.data(), pairs.size}, values.data(), bavt::Backup::kMean);
        if (draws.below(4) == 0) forest.close(pairs);
    } catch (const bavt::CapacityError&) {
        fuzz::require(forest.to_bytes() == before, "a wave that is refused changes nothing");
        forest.cancel(pairs);
    }
    if (draws.below(4) == 0) forest.penalize(pairs);
    if (draws.below(8) == 0) forest.prune(pairs);
    return leaves.nodes;
}

void come_and_go(Forest& forest, forge::Draws draws) {
    if (draws.below(3) == 0) forest.add(draws.unit());
    const std::vector<bavt::TreeId> trees = trees_of(forest);
    if (trees.empty()) return;
    const bavt::TreeId tree = trees[draws.below(trees.size())];
    if (draws.below(3) == 0) forest.finish(tree);
    if (draws.below(3) == 0) {
        forest.with_tree(tree, [&](bavt::Tree& t) { t.reroot(static_cast<NodeId>(draws.below(t.num_nodes()))); });
    }
    if (draws.below(4) == 0) forest.drop(tree);
}

void check(Forest& forest) {
    uint32_t max_nodes = 0;
    for (const bavt::TreeId tree : trees_of(forest)) {
        forest.with_tree(tree, [&](bavt::Tree& t) {
            fuzz::check(t);
            fuzz::require(max_nodes == 0 || max_nodes == t.max_nodes(), "all trees have the same max_nodes");
            max_nodes = t.max_nodes();
        });
    }
}

void use(Forest& forest, forge::Draws& draws) {
    check(forest);
    const std::string saved = forest.to_bytes();
    const std::unique_ptr<Forest> copy = loaded(saved, 1);
    fuzz::require(copy->to_bytes() == saved, "a snapshot of what was loaded is what was loaded");
    for (uint64_t waves = draws.below(6); waves > 0 && can_back_up(forest); --waves) {
        const forge::Draws same(draws.next());
        fuzz::require(wave(forest, same) == wave(*copy, same), "a copy does what the forest does");
        come_and_go(forest, same);
        come_and_go(*copy, same);
    }
    check(forest);
    check(*copy);
    const std::string after = forest.to_bytes();
    fuzz::require(copy->to_bytes() == after, "a copy becomes what the forest becomes");
    fuzz::require(loaded(after, 1)->to_bytes() == after, "what was worked on can be saved");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    forge::Draws draws = fuzz::draws_of(data, size);
    std::unique_ptr<Forest> forest;
    try {
        forest = Forest::from_bytes(reinterpret_cast<const char*>(data), size, draws.below(16) == 0 ? 2 : 1);
    } catch (const bavt::SnapshotError&) {
    }
    fuzz::count(forest != nullptr);
    if (forest) use(*forest, draws);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    const size_t smallest = sizeof(forge::ForestHeader) + sizeof(forge::Entry) + forge::kSum;
    return fuzz::mutate(data, size, max_size, seed, smallest, forge::repair_forest);
}
