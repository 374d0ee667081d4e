#include "node_columns.h"

#include <algorithm>
#include <cstring>

namespace bavt {
namespace {

constexpr uint32_t kFirstRoom = 256;            // nodes of a new reservation: one page of Hot
constexpr uint32_t kKeptNodes = 1 << 15;        // what stays in a reservation for the next tree: 1 MB
constexpr uint32_t kLargestStep = 1 << 16;      // nodes
constexpr uint32_t kHugeFrom = 1 << 15;         // nodes from which on huge pages are asked for,
constexpr uint32_t kHugeCompact = 1 << 17;      // and for a tree of a forest, of which there may be thousands
constexpr size_t kSmallPart = size_t{1} << 19;  // bytes of a column that lie in small pages

constexpr uint32_t nodes_of_slab(size_t size_class) { return 64u << size_class; }

// How columns follow one another: each begins `lead` bytes after a multiple of `alignment`.
struct Spacing {
    size_t lead, alignment;

    size_t extent(size_t bytes) const { return (lead + bytes + alignment - 1) / alignment * alignment; }
    size_t extent_of_all(size_t nodes) const {
        return extent(nodes * sizeof(Hot)) + extent(nodes * sizeof(double)) + 2 * extent(nodes) +
               3 * extent(nodes * sizeof(NodeId));
    }
};
constexpr Spacing kInSlab{0, 64};
// A column's first half megabyte ends where a huge page begins. A fault takes as long for a huge page as for a hundred
// small ones, and a column of any length is good for all of it but that half megabyte.
constexpr Spacing kInReservation{Reservation::kHugePage - kSmallPart, Reservation::kHugePage};

}  // namespace

template <typename Visit>
void NodeColumns::for_each_column(Visit visit) {
    visit(hot_), visit(values_), visit(parents_), visit(tries_), visit(flags_), visit(next_), visit(priors_);
}

NodeColumns::NodeColumns(uint32_t max_nodes, bool compact) : max_nodes_(max_nodes), compact_(compact) {
    num_nodes_ = 0;
    if (compact) {
        grow(1);
    } else {
        reserve();
        room_ = std::min(reservation_->recycled() ? kKeptNodes : kFirstRoom, max_nodes);
    }
    num_nodes_ = 1;
}

void NodeColumns::reserve() {
    reservation_.emplace(kInReservation.extent_of_all(max_nodes_));
    move_to(reservation_->data(), max_nodes_, kInReservation.lead, kInReservation.alignment);
}

// The next tree in this memory finds a few pages in it, and no priors.
NodeColumns::~NodeColumns() {
    if (!reservation_) return;
    forget_priors();
    if (room_ > kKeptNodes) {
        for_each_column([&](const auto& c) { Reservation::discard(c.at(kKeptNodes), c.at(room_)); });
    }
}

void NodeColumns::grow(uint32_t nodes) {
    if (reservation_) return populate(nodes);
    size_t size_class = 0;
    while (size_class < Slab::kClasses && nodes_of_slab(size_class) < nodes) ++size_class;
    if (size_class < Slab::kClasses) {
        const uint32_t room = nodes_of_slab(size_class);
        Slab larger(size_class, kInSlab.extent_of_all(room));
        move_to(larger.data(), room, kInSlab.lead, kInSlab.alignment);
        slab_ = std::move(larger);
        room_ = room;
        std::memset(priors_.at(num_nodes_), 0, (room - num_nodes_) * sizeof(float));
    } else {
        reserve();
        slab_ = Slab();
        room_ = 0;
        populate(nodes);
    }
}

// Columns for `nodes` nodes in other memory, with what the old ones hold.
void NodeColumns::move_to(char* memory, size_t nodes, size_t lead, size_t alignment) {
    for_each_column([&](auto& column) {
        const size_t used = num_nodes_ * sizeof(column[0]);
        if (used > 0) std::memcpy(memory + lead, column.data, used);
        column.data = reinterpret_cast<decltype(column.data)>(memory + lead);
        memory += Spacing{lead, alignment}.extent(nodes * sizeof(column[0]));
    });
}

// Pages come in growing steps, one system call for many, and never more than as much again as is in use.
void NodeColumns::populate(uint32_t nodes) {
    const uint32_t from = room_;
    const uint64_t step = std::clamp(from, kFirstRoom, kLargestStep);
    room_ = static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(nodes, from + step), max_nodes_));
    const uint32_t huge_from = compact_ ? kHugeCompact : kHugeFrom;
    const auto each = [&](const auto& column) {
        if (from <= huge_from && room_ > huge_from) {
            Reservation::prefer_huge_pages(column.at(0) + kSmallPart, column.at(max_nodes_));
        }
        Reservation::populate(column.at(from), column.at(room_));
    };
    each(hot_), each(values_), each(parents_), each(tries_), each(flags_);
}

void NodeColumns::shrink(uint32_t nodes) {
    if (has_priors_) std::memset(priors_.at(nodes), 0, (num_nodes_ - nodes) * sizeof(float));
    if (reservation_) {
        for_each_column([&](const auto& c) { Reservation::discard(c.at(nodes), c.at(num_nodes_)); });
    }
    num_nodes_ = nodes;
}

void NodeColumns::forget_priors() {
    if (has_priors_) std::memset(priors_.data, 0, num_nodes_ * sizeof(float));
    has_priors_ = false;
}

}  // namespace bavt
