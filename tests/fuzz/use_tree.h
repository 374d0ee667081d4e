// What a fuzzer does with a tree that was loaded: everything, with the answers checked against what parents, flags and
// values say, so that an inconsistent tree that got through is caught.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "forge.h"
#include "tree/tree.h"

namespace fuzz {

using bavt::NodeId;
using bavt::Tree;

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

// Links, and what each policy may select.
void check(Tree& tree);

// A program of all verbs, on the tree and on a copy from its snapshot: both must answer alike.
void use(Tree& tree, forge::Draws& draws);

}  // namespace fuzz
