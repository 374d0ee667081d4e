// Children, blocks and shut bits of a tree (tree.h), made anew from parents and flags.
#include <algorithm>

#include "tree/tree.h"

namespace bavt {

// Nodes are taken from the last to the first, so that each comes after all that is below it. Until its turn, the top bit
// of its word says that it has a child that is not shut. Parents lie anywhere in memory: they are fetched ahead.
const char* Tree::rebuild_links() {
    constexpr NodeId kAhead = 64;
    bool terminal_parent = false;
    const auto settle = [&](NodeId node) {  // returns whether the node is open to descents
        const uint32_t word = hot_[node].children & ~kShut;
        const bool has_open_child = shut(node);
        terminal_parent |= word != 0 && (flags_[node] & kTerminal) != 0;
        const bool ends = (flags_[node] & (kTerminal | kPruned)) != 0;
        const bool open = !ends && (word != 0 ? has_open_child : flags_[node] == 0);
        hot_[node].children = word | (open ? 0 : kShut);
        return open;
    };
    for (NodeId end = num_nodes_; end > 1;) {
        const NodeId parent = parents_[end - 1];
        NodeId first = end;
        bool any_open = false, any_live = false;
        do {
            --first;
            if (first > kAhead) {
                const NodeId ahead = std::min(parents_[first - kAhead], first);
                __builtin_prefetch(hot_.at(ahead), 1);
                __builtin_prefetch(flags_.at(ahead));
            }
            any_open |= settle(first);
            any_live |= (flags_[first] & kPruned) == 0;
        } while (first > 1 && parents_[first - 1] == parent);
        if (parent >= first) return "a node comes before its parent";
        if (any_live && (flags_[parent] & kPruned) != 0) return "a pruned node has live children";
        prepend_block(parent, first, end - first);
        if (any_open) hot_[parent].children |= kShut;
        end = first;
    }
    settle(kRoot);
    return terminal_parent ? "a terminal node has children" : nullptr;
}

// Puts a block before the oldest one of its parent.
void Tree::prepend_block(NodeId parent, NodeId first, uint32_t count) {
    uint32_t& word = hot_[parent].children;
    const uint32_t open = word & kShut;
    const uint32_t old_count = (word & ~kShut) >> kIdBits;
    const NodeId newest = word & kIdMask;
    if (old_count == 0 && count < kRing) {
        word = open | (count << kIdBits) | first;
        return;
    }
    if (old_count == 0) {
        next_[first] = first;
    } else {
        next_[first] = old_count == kRing ? next_[newest] : newest;
        next_[newest] = first;
    }
    word = open | (kRing << kIdBits) | (old_count == 0 ? first : newest);
}

}  // namespace bavt
