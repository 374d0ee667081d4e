// Writes the fuzzers' first inputs: trees and forests of several shapes, below the folder that is named.
#include <cstdio>
#include <string>

#include "tree/forest.h"
#include "use_tree.h"

namespace {

using bavt::Forest;
using bavt::Tree;

// A tree that was searched, and had some of its nodes taken out.
void grow(Tree& tree, uint32_t nodes, uint32_t children, uint64_t seed, bool priors, bool weights) {
    forge::Draws draws(seed);
    std::vector<double> values(children);
    const std::vector<double> lighter(children, 0.25);
    const std::vector<float> even(children, 0.5f);
    while (tree.num_nodes() + children <= nodes) {
        for (double& value : values) value = draws.unit();
        bavt::NodeId node = tree.select(draws.below(2) == 0 ? bavt::Policy::kPower : bavt::Policy::kUct, {});
        if (node == bavt::kNone) node = bavt::kRoot;
        const bavt::NodeId first = tree.expand(node, values.data(), nullptr, priors ? even.data() : nullptr, children,
                                               weights ? lighter.data() : nullptr);
        tree.backup(first, values[0], bavt::Backup::kMean);
        if (draws.below(8) == 0) tree.mark_terminal(first);
        if (draws.below(8) == 0) tree.set_flag(first, bavt::kInFlight, true);
        if (draws.below(16) == 0) tree.prune(first + children - 1);
        if (draws.below(4) == 0) tree.penalize(node);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]), 2;
    const std::string folder = argv[1];
    uint64_t seed = 0;
    for (const uint32_t nodes : {1u, 2u, 10u, 60u, 120u}) {
        for (const uint32_t children : {1u, 3u, 16u}) {
            bavt::TreeOptions options;
            options.max_nodes = seed % 2 == 0 ? 200 : bavt::kMaxNodes;
            options.seed = ++seed;
            Tree tree(options);
            grow(tree, nodes, children, seed, seed % 3 == 0, seed % 4 == 1);
            tree.save(folder + "/tree/" + std::to_string(seed));
        }
    }
    for (const uint32_t trees : {0u, 1u, 3u, 8u}) {
        bavt::TreeOptions options;
        options.max_nodes = 60;
        Forest forest(trees, options, 1);
        for (uint32_t tree = 0; tree < trees; ++tree) {
            forest.with_tree(
                tree, [&](Tree& t) { grow(t, 5 + 5 * tree % 25, 1 + tree % 4, ++seed, tree % 3 == 1, tree % 4 == 2); });
        }
        if (trees > 2) forest.finish(0), forest.drop(1);
        forest.save(folder + "/forest/" + std::to_string(trees));
    }
}
