// What every benchmark of the tree core repeats: simulations in one tree, without Python.
#pragma once

#include <cstddef>
#include <vector>

#include "tree/tree.h"

namespace bench {

constexpr size_t kBranching = 3;  // children per expansion; a simulation takes this many values

// Select, expand 3, back up the first child's value; `leaves`, where given, takes what was selected.
inline void simulate_uct(bavt::Tree& tree, size_t n, const double* values,
                         std::vector<bavt::NodeId>* leaves = nullptr) {
    const bavt::SelectArgs args;
    for (size_t i = 0; i < n; ++i) {
        const bavt::NodeId leaf = tree.select(bavt::Policy::kUct, args);
        if (leaves != nullptr) leaves->push_back(leaf);
        const double* v = values + kBranching * i;
        tree.backup(tree.expand(leaf, v, nullptr, nullptr, kBranching), v[0], bavt::Backup::kMean);
    }
}

// The same by power draws, with a budget that runs out: r falls from 1 to 1/n. What was drawn counts a try, as in a
// search.
inline void simulate_power(bavt::Tree& tree, size_t n, const double* values) {
    bavt::SelectArgs args;
    for (size_t i = 0; i < n; ++i) {
        args.remaining = static_cast<double>(n - i) / static_cast<double>(n);
        const bavt::NodeId node = tree.select(bavt::Policy::kPower, args);
        const double* v = values + kBranching * i;
        tree.backup(tree.expand(node, v, nullptr, nullptr, kBranching), v[0], bavt::Backup::kMean);
        tree.penalize(node);
    }
}

}  // namespace bench
