// Ids, sentinels and flags shared by the tree and its bindings.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace bavt {

using NodeId = uint32_t;

inline constexpr NodeId kRoot = 0;
inline constexpr NodeId kNone = 0xFFFFFFFFu;        // no parent, nothing to select
inline constexpr uint32_t kMaxNodes = 100'000'000;  // ids a tree can hold at most; they fit 27 bits

// What is known of a node beside its numbers. A node with no flag is *open*: it may be handed out.
enum Flag : uint8_t {
    kTerminal = 1,  // ends a path: never expanded
    kPruned = 2,    // its whole subtree is out of the search and of the best path
    kClosed = 4,    // never handed out again, but still part of the best path
    kInFlight = 8,  // handed out, its expansion not yet in the tree
};
inline constexpr uint8_t kAllFlags = kTerminal | kPruned | kClosed | kInFlight;

// A tree would need more nodes than it may hold. Nothing was changed.
struct CapacityError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A snapshot that cannot be read: not one, damaged, or of another version. Nothing was changed.
struct SnapshotError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace bavt
