// The columns of one tree and the memory under them.
//
// A tree of its own lies in a reservation of address space from the start: nothing ever moves, and views of its columns
// stay good. A tree of a forest is *compact*: it begins in a slab of 64 nodes and moves to one twice as large when
// that is full, until it moves into a reservation for good at 16,384 nodes. No move copies more than half a megabyte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "memory/reservation.h"
#include "memory/slab.h"
#include "tree/types.h"

namespace bavt {

struct Hot {
    double value_sum;
    uint32_t visits;
    uint32_t children;
};
static_assert(sizeof(Hot) == 16, "four siblings share a cache line");

class NodeColumns {
   public:
    // Empty, with room for the root.
    NodeColumns(uint32_t max_nodes, bool compact);
    ~NodeColumns();
    NodeColumns(const NodeColumns&) = delete;
    NodeColumns& operator=(const NodeColumns&) = delete;

    // Whether its memory moves as it grows.
    bool moves() const { return compact_; }

   protected:
    static size_t columns_to_begin_with(uint32_t max_nodes, bool compact);  // bytes

    // Makes room for `nodes` nodes, at most max_nodes_. Throws std::bad_alloc, and nothing has changed.
    void make_room(uint32_t nodes) {
        if (nodes > room_) grow(nodes);
    }
    // Keeps the first `nodes` nodes, whose columns are already right, and gives the memory of the rest back.
    void shrink(uint32_t nodes);
    // A prior that was never written reads as +0, "not given"; a prior of zero is stored as -0.
    void write_prior(NodeId node, float prior) {
        priors_[node] = prior == 0.0f ? -0.0f : prior;
        has_priors_ = true;
    }
    void forget_priors();
    // The nodes of `other`, in room that is there.
    void copy_columns(const NodeColumns& other);

    Column<Hot> hot_;
    Column<double> values_;
    Column<NodeId> parents_;
    Column<uint8_t> tries_;
    Column<uint8_t> flags_;
    Column<NodeId> next_;
    Column<float> priors_;
    uint32_t num_nodes_ = 0;
    uint32_t max_nodes_;
    bool has_priors_ = false;

   private:
    void grow(uint32_t nodes);
    void populate(uint32_t nodes);
    void reserve();
    void move_to_slab(size_t size_class);
    void move_to(char* memory, size_t nodes, bool in_slab);
    template <typename Visit>
    void for_each_column(Visit visit);

    uint32_t room_ = 0;  // nodes whose memory is there
    bool compact_;
    Slab slab_;
    std::optional<Reservation> reservation_;
};

}  // namespace bavt
