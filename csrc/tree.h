// One search tree in flat arrays.
//
// Nodes are numbered in the order they are made; the root is 0 and an id is good for the tree's life. The children that
// one call of `expand` makes have consecutive ids: a block. A node may be expanded again (widening), which adds a block.
//
//      Hot         value_sum f64 | visits u32 | depth u16 | flags u8 | has_open_leaf u8      16 bytes
//      Links       parent | last_block | next_block | block_size                            16 bytes
//      value       f64, the critic's V of the state as it was given
//      log_weight  f64, ln(V) + tries ln(decay), what the global policies choose by; -inf for V <= 0
//      prior       f32, for puct
//      tries       u16, saturating
//
//      node --last_block--> newest block's first child --next_block--> oldest block's first child --next_block--> ...
//
// The blocks of a node are a ring entered at the newest one, so that adding a block and walking them in order are both
// cheap. `next_block` and `block_size` are used at the first child of a block only.
//
// A node is *open* while it may be handed out: no flag is set. Pruning a node flags its subtree.
//   global policies (power, best_first) choose among all open nodes, expanded or not;
//   descents (ucb, uct, puct) walk from the root to a leaf, past every child whose subtree holds no open leaf.
//
// Complexity: expand O(m), backup O(depth), a descent O(children on the way), power and best_first O(nodes).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "column.h"
#include "policy.h"
#include "rng.h"
#include "types.h"

namespace bavt {

enum class Policy { kPower, kBestFirst, kUcb, kUct, kPuct };
enum class Backup { kMean, kMax };

struct Hot {
    double value_sum;
    uint32_t visits;
    uint16_t depth;
    uint8_t flags;
    uint8_t has_open_leaf;  // whether a descent may enter
};
static_assert(sizeof(Hot) == 16, "four siblings share a cache line");

struct Links {
    NodeId parent;
    NodeId last_block;
    NodeId next_block;
    uint32_t block_size;
};
static_assert(sizeof(Links) == 16);

struct SelectArgs {
    double remaining = 1.0;
    double total = 1.0;
    double exploration = 1.0;
    uint32_t max_depth = 0xFFFF;  // a descent goes no deeper, and returns the node it stands on
};

class Tree {
   public:
    Tree(uint64_t seed, uint32_t max_nodes, double root_value, double decay);

    // Adds `count` children; returns the first one's id. Throws CapacityError, or std::invalid_argument where the node
    // is terminal, pruned or 65,535 deep.
    NodeId expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count);

    // A node to expand, or kNone. Marks nothing; `power` consumes one random draw.
    NodeId select(Policy policy, const SelectArgs& args);

    void backup(NodeId node, double value, Backup mode);

    void penalize(NodeId node);  // one more try: the weight is multiplied by the decay
    void set_flag(NodeId node, Flag flag, bool on);
    void prune(NodeId node);  // for good, with everything below it

    // From the root's child to the best leaf: terminal before open, then the highest V, the deepest, the oldest. Pruned
    // subtrees do not count.
    std::vector<NodeId> best_path() const;

    std::vector<NodeId> children(NodeId node) const;
    uint32_t num_nodes() const { return num_nodes_; }
    uint32_t max_nodes() const { return max_nodes_; }
    const Hot* hot() const { return hot_.data(); }
    const Links* links() const { return links_.data(); }
    const double* values() const { return values_.data(); }
    const uint16_t* tries() const { return tries_.data(); }

   private:
    template <typename Score>
    NodeId descend(Score score, uint32_t max_depth) const;
    template <typename Score>
    NodeId best_child(NodeId node, Score& score) const;
    template <typename Visit>
    void for_each_block(NodeId node, Visit visit) const;

    NodeId draw_by_power(double remaining, double total);
    NodeId heaviest() const;
    bool open_leaf_below(NodeId node) const;
    void refresh_open_leaf(NodeId node);
    void append_block(NodeId node, NodeId first, uint32_t count);

    uint32_t max_nodes_;
    uint32_t num_nodes_ = 0;
    double log_decay_;
    CounterRng rng_;
    Column<Hot> hot_;
    Column<Links> links_;
    Column<double> values_;
    Column<double> log_weights_;
    Column<float> priors_;
    Column<uint16_t> tries_;
    std::vector<double> scratch_;
};

}  // namespace bavt
