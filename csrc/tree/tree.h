// One search tree in flat arrays.
//
// Nodes are numbered in the order they are made; the root is 0 and an id is good for the tree's life. The children that
// one call of `expand` makes have consecutive ids. A node may be expanded again (widening). A maximal run of consecutive
// ids with one parent is a *block*.
//
//      Hot      value_sum f64 | visits u32 | children u32     16 bytes, all that a descent by ucb or uct reads
//      value    f64, the critic's V of the state as it was given
//      weight   f64, what the global policies choose by, where it was given apart from V (then for every node)
//      parent   u32
//      tries    u8, saturating          a node is drawn by weight * decay^tries
//      flags    u8                                                                     together 30 bytes a node
//      next     u32, used at the first node of a block whose parent has several blocks, or more than 14 children
//      prior    f32, used where priors were given (puct)      columns that are never written take no memory
//      ranking  9 to 14 bytes, from the first use of a global policy on (ranking.h)
//
//      children = shut (1 bit) | count (4 bits) | id (27 bits)
//
//          count 0       no children
//          count 1..14   one block of that many children, which starts at id
//          count 15      a ring of blocks; id is the newest, and next[] leads to the oldest and on from there:
//
//               node --children--> newest block --next--> oldest block --next--> ... --next--> newest block
//
//          shut          no open leaf in the subtree: a descent does not enter
//
// Which nodes are handed out. A node is *open* while it has no flag (types.h). Pruning a node flags its subtree.
//   global policies (power, best_first) choose among all open nodes with V > 0, expanded or not;
//   descents (ucb, uct, puct) walk from the root to an open node without children, past every subtree that holds none:
//   what is in flight is skipped, not discounted. A node whose children are all shut is not returned again.
//
// A search by power draws with widening takes 43 to 48 of these bytes a node, one by uct 30, by puct with priors 34;
// weights of their own are 8 more.
//
// Complexity: expand O(m), backup O(depth), a descent O(children on the way), power and best_first O(log nodes).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tree/columns.h"
#include "tree/policy.h"
#include "tree/ranking.h"
#include "tree/rng.h"
#include "tree/types.h"

namespace bavt {

enum class Policy { kPower, kBestFirst, kUcb, kUct, kPuct };
enum class Backup { kMean, kMax };

// decay^tries for every number of tries. The trees of a forest share one.
struct DecayPowers {
    explicit DecayPowers(double decay);
    double power[256];
};

struct TreeOptions {
    uint64_t seed = 0;
    uint32_t max_nodes = kMaxNodes;
    double root_value = 1.0;
    double decay = 0.85;
    bool compact = false;                                 // node_columns.h
    std::shared_ptr<const DecayPowers> powers = nullptr;  // of `decay`, or none: the tree makes its own
};

struct SelectArgs {
    double remaining = 1.0;
    double total = 1.0;
    double exploration = 1.0;
    uint32_t max_depth = 0xFFFFFFFFu;  // a descent goes no deeper, and returns the node it stands on
};

class Checksum;
class Sink;
class Source;

class Tree : NodeColumns {
   public:
    // Bytes a node can take at most, if every column is used and the leaves of the ranking are half full.
    static constexpr uint32_t kMaxBytesPerNode = 64;

    explicit Tree(const TreeOptions& options);

    // Adds `count` children; returns the first one's id. Throws CapacityError, or std::invalid_argument where the node
    // is terminal or pruned. `weights` may be null: V.
    NodeId expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count,
                  const double* weights = nullptr);
    void set_root_weight(double weight);  // while the root is the only node

    // What `expand` and `mark_terminal` would refuse, refused before anything changes.
    bool can_expand(NodeId node, uint64_t count) const {
        return count <= max_nodes_ - num_nodes_ && (flags_[node] & (kTerminal | kPruned)) == 0;
    }
    void require_expandable(NodeId node, uint64_t count) const;
    void require_childless(NodeId node) const;
    // After it `expand` by so many nodes finds its memory. Throws std::bad_alloc; nothing that can be seen changes.
    void make_room_for(uint64_t count) {
        make_room(static_cast<uint32_t>(num_nodes_ + count));
        if (has_weights()) make_room_for_weights(num_nodes_ + count);
    }

    // Bytes of memory, or of address space where the tree is not compact, that a new tree takes.
    static uint64_t bytes_to_begin_with(const TreeOptions& options);

    // A node to expand, or kNone. Marks nothing; only `power` draws random numbers.
    NodeId select(Policy policy, const SelectArgs& args);

    // What `select` by a descent returns, for many different trees at once: results[i] of trees[i], with remaining[i], or
    // args.remaining where that is null. The descents take turns step by step, so that their cache misses overlap.
    static void descend_many(Policy policy, Tree* const* trees, size_t count, const SelectArgs& args,
                             const double* remaining, NodeId* results);

    // For what `select` has just returned, faster than by the general calls: sets its mark; expands and clears it.
    void mark_selected(NodeId node);
    NodeId expand_selected(NodeId node, const double* values, const uint8_t* terminal, const float* priors,
                           uint32_t count);
    void release(NodeId node);  // clears the mark, if there is one

    // Fetch the object itself, then the last descent's path, and then what the call will touch.
    void prefetch() const {
        for (size_t line = 0; line < 3; ++line) __builtin_prefetch(reinterpret_cast<const char*>(this) + 64 * line);
    }
    void prefetch_path() const { __builtin_prefetch(path_.data()); }
    void prefetch_expand(NodeId node) const;
    void prefetch_backup(NodeId node) const;

    // Adds a visit to the node and all its ancestors. Mean: value_sum += value. Max: value_sum = visits * the largest
    // value so far, up to rounding.
    void backup(NodeId node, double value, Backup mode);

    // What the global policies choose by from now on, before the decay. Throws std::bad_alloc, and nothing has changed,
    // at most where no node has a weight of its own yet.
    void set_weight(NodeId node, double weight);
    // One more try: the weight is multiplied by the decay. False, and no effect, after 255. And one try fewer.
    bool penalize(NodeId node);
    void unpenalize(NodeId node);
    // Visits without a value, of the node and all its ancestors; `delta` is 1 or -1.
    void add_visits(NodeId node, int delta);
    void set_flag(NodeId node, Flag flag, bool on);
    void mark_terminal(NodeId node);  // throws std::invalid_argument where the node has children
    void prune(NodeId node);          // for good, with everything below it

    // Keeps the subtree of `node` and frees the rest. Returns the old id of every new id; order is kept.
    std::vector<NodeId> reroot(NodeId node);

    // Back to a root alone, in the memory that is there.
    void reset(uint64_t seed, double root_value);

    // From the root's child to the best leaf: terminal before open, then the highest V, the deepest, the oldest. Pruned
    // subtrees do not count.
    std::vector<NodeId> best_path() const;

    std::vector<NodeId> children(NodeId node) const;
    template <typename Visit>
    void for_each_child(NodeId node, Visit visit) const;  // oldest first
    std::vector<uint32_t> depths() const;

    // A compact tree that is equal to this one and goes on as it would.
    std::unique_ptr<Tree> clone() const;

    // Snapshots (snapshot.cpp). `load` and `from_bytes` throw SnapshotError whatever the bytes are; files that cannot be
    // read or written throw FileError.
    void save(const std::string& path) const;
    std::string to_bytes() const;
    size_t snapshot_size() const;
    void to_memory(char* out) const;  // snapshot_size() bytes
    static std::unique_ptr<Tree> load(const std::string& path);
    static std::unique_ptr<Tree> from_bytes(const char* data, size_t size);
    void write(Sink& sink) const;
    // A tree of a forest must have the max_nodes and the decay of `forest`.
    static std::unique_ptr<Tree> read(Source& source, uint64_t size, const TreeOptions* forest = nullptr);

    using NodeColumns::moves;
    uint32_t num_nodes() const { return num_nodes_; }
    uint32_t max_nodes() const { return max_nodes_; }
    uint8_t flags(NodeId node) const { return flags_[node]; }
    uint32_t visits(NodeId node) const { return hot_[node].visits; }
    bool has_weights() const { return !weights_.empty(); }
    const Hot* hot() const { return hot_.data; }
    const double* values() const { return values_.data; }
    // What was given as the weight, or V.
    const double* weights() const { return weights_.empty() ? values_.data : weights_.data(); }
    const NodeId* parents() const { return parents_.data; }
    const uint8_t* tries() const { return tries_.data; }
    const uint8_t* all_flags() const { return flags_.data; }

   private:
    static constexpr uint32_t kShut = 1u << 31;
    static constexpr uint32_t kIdBits = 27;
    static constexpr uint32_t kIdMask = (1u << kIdBits) - 1;
    static constexpr uint32_t kRing = 15;  // the count that stands for a ring of blocks
    static_assert(kMaxNodes <= kIdMask);

    // A node that a descent may stand on, and what its next step needs of it.
    struct Place {
        NodeId node;
        uint32_t children;
        uint32_t visits;
    };

    template <typename Rule>
    NodeId descend(Rule rule, uint32_t max_depth);
    void prefetch_root() const {
        __builtin_prefetch(hot_.data);
        __builtin_prefetch(path_.data(), 1);
    }
    template <typename RuleOf>
    static void descend_in_turn(Tree* const* trees, size_t count, uint32_t max_depth, RuleOf rule_of, NodeId* results);
    template <bool kAlone, typename Rule>
    bool step(Rule rule, uint32_t max_depth, uint32_t depth, Place& place);
    Place place_at(NodeId node) const;
    template <typename Score>
    double score_child(const Hot& hot, NodeId child, double uniform, Score score) const;
    static void take_if_above(double score, double& best, const Place& other, Place& place);
    template <uint32_t kCount, bool kFetch, typename Score>
    double best_of(NodeId first, Score score, Place& place) const;
    template <typename Score>
    NodeId best_of_all(NodeId node, Score score) const;
    NodeId first_open_child(NodeId node) const;
    template <typename Visit>
    void for_each_block(NodeId node, Visit visit) const;
    NodeId block_end(NodeId first) const;

    bool shut(NodeId node) const { return (hot_[node].children & kShut) != 0; }
    bool has_children(NodeId node) const { return (hot_[node].children & ~kShut) != 0; }
    // The parent, without a look at its column where the last descent ended at the node.
    NodeId parent_of(NodeId node) const {
        const bool on_path = path_length_ >= 2 && path_[path_length_ - 1] == node;
        return on_path ? path_[path_length_ - 2] : parents_[node];
    }
    bool any_open_child(NodeId node) const;
    bool should_be_shut(NodeId node) const;
    void refresh_shut(NodeId node);
    void rank_new(NodeId first);
    void append_block(NodeId node, NodeId first, uint32_t count);
    void write_child(NodeId parent, NodeId child, double value, bool terminal);
    // From parents and flags, with every word for the children 0 (tree_links.cpp). Returns what is wrong with them, or
    // null.
    const char* rebuild_links();
    void prepend_block(NodeId parent, NodeId first, uint32_t count);

    double decayed_weight(NodeId node) const { return weights()[node] * decay_power_[tries_[node]]; }
    auto decayed_weights() const {
        return [this](NodeId node) { return decayed_weight(node); };
    }
    bool rankable(NodeId node) const { return flags_[node] == 0 && weights()[node] > 0.0; }
    void set_tries(NodeId node, uint8_t tries);
    void add_weights(NodeId first, const double* weights, uint32_t count);
    void make_room_for_weights(size_t size);
    Ranking& ranking();
    NodeId drawn(NodeId node) const;
    template <typename Change>
    void change_ranking(Change change);
    void update_flags(NodeId node, uint8_t flags);

    void read_columns(Source& source, Checksum& sum);

    std::vector<NodeId> path_;  // the last descent, root first: the ancestors of what is backed up next, as a rule
    uint32_t path_length_ = 0;
    std::vector<double> weights_;  // of every node, or empty: V is the weight
    double decay_;
    std::shared_ptr<const DecayPowers> powers_;
    const double* decay_power_;
    CounterRng rng_;
    std::optional<Ranking> ranking_;
};

inline NodeId Tree::block_end(NodeId first) const {
    const NodeId parent = parents_[first];
    NodeId end = first + 1;
    while (end < num_nodes_ && parents_[end] == parent) ++end;
    return end;
}

template <typename Visit>
void Tree::for_each_block(NodeId node, Visit visit) const {
    const uint32_t word = hot_[node].children & ~kShut;
    const uint32_t count = word >> kIdBits;
    const NodeId newest = word & kIdMask;
    if (count == 0) return;
    if (count != kRing) return visit(newest, newest + count);
    NodeId block = newest;
    do {
        block = next_[block];
        visit(block, block_end(block));
    } while (block != newest);
}

template <typename Visit>
void Tree::for_each_child(NodeId node, Visit visit) const {
    for_each_block(node, [&](NodeId child, NodeId end) {
        for (; child < end; ++child) visit(child);
    });
}

}  // namespace bavt
