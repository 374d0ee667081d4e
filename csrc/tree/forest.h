// Many trees behind one object, worked on in waves: (tree, node) pairs in and out, a whole wave in one call.
//
// What `select` hands out is marked in flight in its tree until it is expanded, backed up or cancelled, so that the
// leaves of a wave differ. Every tree is worked on by one thread at a time, in the order of the wave, and draws from its
// own random numbers: the results are the same for every number of threads, and a forest of one tree with waves of one
// leaf is that tree. A wave that holds a mistake is refused before anything changed.
//
// Calls on one forest from several threads take turns, and a fork waits for the call in progress: the child has the forest
// as it was between two calls, and works on it with one thread. Trees that are dropped leave their memory to the next
// `add`.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "memory/fork.h"
#include "memory/workers.h"
#include "tree/tree.h"

namespace bavt {

using TreeId = uint32_t;

// A wave: `size` pairs of a tree and a node in it.
struct Wave {
    const TreeId* trees;
    const NodeId* nodes;
    size_t size;
};

struct Selection {
    std::vector<TreeId> trees;
    std::vector<NodeId> nodes;
};

// Children for a wave: those of pair i are at offsets[i] .. offsets[i + 1] of the arrays. `terminal` and `priors` may be
// null.
struct Children {
    const size_t* offsets;
    const double* values;
    const uint8_t* terminal;
    const float* priors;

    size_t count(size_t pair) const { return offsets[pair + 1] - offsets[pair]; }
};

class Forest {
   public:
    static constexpr uint32_t kMaxTrees = 1'000'000;

    // Tree number i ever made has the seed `options.seed` + i.
    Forest(uint32_t num_trees, const TreeOptions& options, unsigned threads);

    TreeId add(double root_value);  // throws CapacityError where there are kMaxTrees
    void finish(TreeId tree);       // not selected from any more
    void drop(TreeId tree);         // its id is free for the next `add`

    // At most `per_tree` leaves of every live tree, and at most `limit` in all: trees take turns, beginning where the
    // last limited wave ended. `remaining` has one entry per tree id, or is null for args.remaining. Ordered by tree.
    // `num_remaining` says how many entries; std::invalid_argument where a tree has none, which another thread may have
    // added since they were counted.
    Selection select(Policy policy, const SelectArgs& args, const double* remaining, uint32_t per_tree, size_t limit,
                     size_t num_remaining = SIZE_MAX);

    // Returns the id of each pair's first child, or the root's where it has none; clears the marks. Throws CapacityError
    // where a tree would have too many nodes or memory runs out; no tree has changed then.
    std::vector<NodeId> expand(const Wave& wave, const Children& children);
    void backup(const Wave& wave, const double* values, Backup mode);  // clears the marks
    void cancel(const Wave& wave);                                     // clears the marks
    void penalize(const Wave& wave);
    void prune(const Wave& wave);
    void close(const Wave& wave);
    void mark_terminal(const Wave& wave);

    // Runs `read` or `change` on one tree while no other call runs.
    template <typename Use>
    auto with_tree(TreeId tree, Use use) {
        const std::lock_guard lock(mutex_);
        return use(*slot(tree).tree);
    }

    // Snapshots (forest_snapshot.cpp), with the errors of Tree's. Nothing changes between the trees of one snapshot.
    void save(const std::string& path);
    std::string to_bytes();
    size_t to_memory(char* out, size_t room);  // returns the size; writes nothing where it is more than `room`
    static std::unique_ptr<Forest> load(const std::string& path, unsigned threads);
    static std::unique_ptr<Forest> from_bytes(const char* data, size_t size, unsigned threads);

    uint32_t num_slots();  // ids in use are below this
    std::vector<uint32_t> num_nodes();
    std::vector<uint8_t> live();
    unsigned threads() const { return workers_.count(); }

   private:
    enum class State : uint8_t { kLive, kFinished, kDropped };

    struct Slot {
        std::unique_ptr<Tree> tree;  // null where a snapshot had a dropped tree
        State state;
    };

    // What one round of a selection picks from one tree: at most `quota` nodes, at `begin` of an array.
    struct Picks {
        TreeId tree;
        uint32_t total;  // in the rounds before and this one
        uint32_t quota, found = 0;
        size_t begin = 0;
    };

    struct Front;  // what a snapshot begins with

    explicit Forest(unsigned threads);
    Slot& slot(TreeId tree);
    std::unique_ptr<Tree> new_tree(double root_value);
    Front front() const;
    size_t piece() const;
    template <typename SinkAt>
    void write(const Front& front, SinkAt sink_at);
    template <typename SourceAt>
    static std::unique_ptr<Forest> read(uint64_t size, unsigned threads, SourceAt source_at);
    TreeId add_slot(double root_value);
    std::vector<Picks> live_from_turn() const;
    void pick_in_rounds(Policy policy, const SelectArgs& args, const double* remaining, uint32_t per_tree, size_t limit,
                        std::vector<Picks>& rounds, std::vector<NodeId>& nodes);
    void pick(Picks* all, size_t count, Policy policy, const SelectArgs& args, const double* remaining, NodeId* nodes);
    void pick_globally(Picks* all, size_t count, Policy policy, SelectArgs args, const double* remaining,
                       NodeId* nodes);
    void pick_by_descents(Picks* all, size_t count, Policy policy, const SelectArgs& args, const double* remaining,
                          NodeId* nodes);
    static Selection gather(std::vector<Picks>& rounds, const std::vector<NodeId>& nodes);

    bool known(const Wave& wave, size_t pair) const;
    void require_known(const Wave& wave) const;
    [[noreturn]] void refuse_unknown(const Wave& wave, size_t pair) const;
    void prepare(const Wave& wave, const std::vector<size_t>& order, const Children& children);
    void refuse(const Wave& wave, const Children& children) const;
    [[noreturn]] void refuse_growth(size_t count) const;

    static std::vector<size_t> by_tree(const Wave& wave);
    template <typename Work>
    void for_ranges(const Wave& wave, const std::vector<size_t>& order, Work work);
    // Calls apply(pair, tree) for every pair, in the order of the wave within a tree.
    template <typename Apply>
    void for_wave(const Wave& wave, const std::vector<size_t>& order, void (Tree::*prefetch)(NodeId) const,
                  Apply apply);
    template <typename Apply>
    void change(const Wave& wave, Apply apply);

    ForkSafeMutex mutex_{ForkSafeMutex::kForest};
    TreeOptions options_;
    uint64_t trees_made_ = 0;
    size_t turn_ = 0;  // slot that a limited wave begins with
    std::vector<Slot> slots_;
    Workers workers_;
};

}  // namespace bavt
