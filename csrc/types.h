// Ids, sentinels and flags shared by the tree and its bindings.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace bavt {

using NodeId = uint32_t;

inline constexpr NodeId kRoot = 0;
inline constexpr NodeId kNone = 0xFFFFFFFFu;       // no parent, no child, nothing to select
inline constexpr uint32_t kMaxNodes = 100'000'000;  // ids a tree can hold at most

// What is known of a node beside its numbers.
enum Flag : uint8_t {
    kTerminal = 1,  // ends a path: never expanded
    kPruned = 2,    // its whole subtree is out of the search and of the best path
    kClosed = 4,    // never handed out again, but still part of the best path
    kInFlight = 8,  // handed out, its expansion not yet in the tree
};

// A tree would need more nodes than it may hold. Nothing was changed.
struct CapacityError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace bavt
