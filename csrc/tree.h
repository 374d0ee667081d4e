// One search tree in flat arrays.
//
// Nodes are numbered in the order they are made; the root is 0 and an id is good for the tree's life. The children that
// one call of `expand` makes have consecutive ids. A node may be expanded again (widening). A maximal run of consecutive
// ids with one parent is a *block*.
//
//      Hot      value_sum f64 | visits u32 | children u32     16 bytes, all that a descent by ucb or uct reads
//      value    f64, the critic's V of the state as it was given
//      parent   u32
//      tries    u8, saturating          weight = V * decay^tries, what the global policies choose by
//      flags    u8                                                                     together 30 bytes a node
//      next     u32, used at the first node of a block whose parent has several blocks, or more than 14 children
//      prior    f32, used where priors were given (puct)      columns that are never written take no memory
//      ranking  a good 4 bytes, from the first use of a global policy on (ranking.h)
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
// Complexity: expand O(m), backup O(depth), a descent O(children on the way), power and best_first O(log nodes).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policy.h"
#include "ranking.h"
#include "reservation.h"
#include "rng.h"
#include "types.h"

namespace bavt {

enum class Policy { kPower, kBestFirst, kUcb, kUct, kPuct };
enum class Backup { kMean, kMax };

struct Hot {
    double value_sum;
    uint32_t visits;
    uint32_t children;
};
static_assert(sizeof(Hot) == 16, "four siblings share a cache line");

struct TreeOptions {
    uint64_t seed = 0;
    uint32_t max_nodes = kMaxNodes;
    double root_value = 1.0;
    double decay = 0.85;
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

class Tree {
   public:
    // Bytes a node can take at most: every column, and a ranking whose blocks are half full.
    static constexpr uint32_t kMaxBytesPerNode = 46;

    explicit Tree(const TreeOptions& options);
    ~Tree();
    Tree(const Tree&) = delete;
    Tree& operator=(const Tree&) = delete;

    // Adds `count` children; returns the first one's id. Throws CapacityError, or std::invalid_argument where the node
    // is terminal or pruned.
    NodeId expand(NodeId node, const double* values, const uint8_t* terminal, const float* priors, uint32_t count);

    // What `expand` and `mark_terminal` would refuse, refused before anything changes.
    void require_expandable(NodeId node, uint64_t count) const;
    void require_childless(NodeId node) const;

    // A node to expand, or kNone. Marks nothing; only `power` draws random numbers.
    NodeId select(Policy policy, const SelectArgs& args);

    // Adds a visit to the node and all its ancestors. Mean: value_sum += value. Max: value_sum = visits * the largest
    // value so far, up to rounding.
    void backup(NodeId node, double value, Backup mode);

    void penalize(NodeId node);  // one more try: the weight is multiplied by the decay; no effect after 255
    void set_flag(NodeId node, Flag flag, bool on);
    void mark_terminal(NodeId node);  // throws std::invalid_argument where the node has children
    void prune(NodeId node);          // for good, with everything below it

    // Keeps the subtree of `node` and frees the rest. Returns the old id of every new id; order is kept.
    std::vector<NodeId> reroot(NodeId node);

    // Address space that a tree takes, whatever is in it.
    static size_t reserved_bytes(uint32_t max_nodes);

    // Back to a root alone, in the memory that is there.
    void reset(uint64_t seed, double root_value);

    // From the root's child to the best leaf: terminal before open, then the highest V, the deepest, the oldest. Pruned
    // subtrees do not count.
    std::vector<NodeId> best_path() const;

    std::vector<NodeId> children(NodeId node) const;
    std::vector<uint32_t> depths() const;

    // Snapshots (snapshot.cpp). `load` and `from_bytes` throw SnapshotError whatever the bytes are; files that cannot be
    // read or written throw FileError.
    void save(const std::string& path) const;
    std::string to_bytes() const;
    size_t snapshot_size() const;
    void to_memory(char* out) const;  // snapshot_size() bytes
    static std::unique_ptr<Tree> load(const std::string& path);
    static std::unique_ptr<Tree> from_bytes(const char* data, size_t size);
    void write(Sink& sink) const;
    // With `max_nodes`, a tree of another max_nodes is refused before it takes address space.
    static std::unique_ptr<Tree> read(Source& source, uint64_t size, std::optional<uint32_t> max_nodes = {});

    uint32_t num_nodes() const { return num_nodes_; }
    uint32_t max_nodes() const { return max_nodes_; }
    double decay() const { return decay_; }
    uint8_t flags(NodeId node) const { return flags_[node]; }
    const Hot* hot() const { return hot_.data; }
    const double* values() const { return values_.data; }
    const NodeId* parents() const { return parents_.data; }
    const uint8_t* tries() const { return tries_.data; }
    const uint8_t* all_flags() const { return flags_.data; }

   private:
    static constexpr uint32_t kShut = 1u << 31;
    static constexpr uint32_t kIdBits = 27;
    static constexpr uint32_t kIdMask = (1u << kIdBits) - 1;
    static constexpr uint32_t kRing = 15;  // the count that stands for a ring of blocks
    static_assert(kMaxNodes <= kIdMask);

    struct Best {
        double score;
        NodeId node;
    };

    template <typename Score>
    NodeId descend(Score score, uint32_t max_depth);
    template <typename Score>
    NodeId best_child(NodeId node, uint32_t word, const Score& score) const;
    template <typename Score>
    Best scan(NodeId child, NodeId end, double uniform, const Score& score, Best best) const;
    template <typename Score>
    Best scan_blocks(NodeId node, const Score& score) const;
    NodeId first_open_child(NodeId node) const;
    template <typename Visit>
    void for_each_block(NodeId node, Visit visit) const;
    NodeId block_end(NodeId first) const;

    bool shut(NodeId node) const { return (hot_[node].children & kShut) != 0; }
    bool has_children(NodeId node) const { return (hot_[node].children & ~kShut) != 0; }
    bool any_open_child(NodeId node) const;
    bool should_be_shut(NodeId node) const;
    void refresh_shut(NodeId node);
    void append_block(NodeId node, NodeId first, uint32_t count);
    void write_child(NodeId parent, NodeId child, double value, bool terminal);
    void write_prior(NodeId node, float prior);

    // From parents and flags, with every word for the children 0 (tree_links.cpp). Returns what is wrong with them, or
    // null.
    const char* rebuild_links();
    void prepend_block(NodeId parent, NodeId first, uint32_t count);

    double weight(NodeId node) const { return values_[node] * decay_power_[tries_[node]]; }
    auto weights() const {
        return [this](NodeId node) { return weight(node); };
    }
    bool rankable(NodeId node) const { return flags_[node] == 0 && values_[node] > 0.0; }
    Ranking& ranking();
    void update_flags(NodeId node, uint8_t flags);

    void layout();
    void commit(uint32_t nodes);
    void discard_from(uint32_t begin, uint32_t end);
    void forget_priors();
    void read_columns(Source& source, Checksum& sum);

    uint32_t max_nodes_;
    uint32_t num_nodes_ = 1;
    uint32_t committed_ = 0;  // nodes whose pages have been asked for
    bool has_priors_ = false;
    double decay_;
    CounterRng rng_;
    Reservation memory_;
    Column<Hot> hot_;
    Column<double> values_;
    Column<NodeId> parents_;
    Column<uint8_t> tries_;
    Column<uint8_t> flags_;
    Column<NodeId> next_;
    Column<float> priors_;
    std::optional<Ranking> ranking_;
    std::vector<NodeId> path_;  // the last descent, root first: the ancestors of what is backed up next, as a rule
    uint32_t path_length_ = 0;
    double decay_power_[256];
};

}  // namespace bavt
