#include "tree/columns.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace bavt {
namespace {

constexpr uint32_t kFirstRoom = 256;        // nodes of a new reservation: one page of Hot
constexpr uint32_t kKeptNodes = 1 << 15;    // what stays in a reservation for the next tree: 1 MB
constexpr uint32_t kLargestStep = 1 << 16;  // nodes
constexpr uint32_t kHugeFrom = 1 << 15;     // nodes from which on huge pages are asked for,
constexpr uint32_t kHugeCompact = 1 << 17;  // and for a tree of a forest, of which there may be thousands

constexpr uint32_t nodes_of_slab(size_t size_class) { return 64u << size_class; }

size_t class_of(uint32_t nodes) {
    size_t size_class = 0;
    while (size_class < Slab::kClasses && nodes_of_slab(size_class) < nodes) ++size_class;
    return size_class;
}

// Bytes at the beginning of a column that lie in small pages, and end where a huge page begins. A fault takes as long for a
// huge page as for a hundred small ones; half of the last one is wasted, which matters in the columns of bytes.
constexpr size_t small_part(size_t element) {
    return element == 1 ? Reservation::kHugePage : Reservation::kHugePage / 4;
}

// Where a column of a reservation begins after a multiple of the huge page; those of a slab are packed by cache lines.
size_t lead_of(bool in_slab, size_t element) { return in_slab ? 0 : Reservation::kHugePage - small_part(element); }

size_t extent_of(bool in_slab, size_t nodes, size_t element) {
    const size_t alignment = in_slab ? 64 : Reservation::kHugePage;
    return (lead_of(in_slab, element) + nodes * element + alignment - 1) / alignment * alignment;
}

size_t extent_of_all(bool in_slab, size_t nodes) {
    return extent_of(in_slab, nodes, sizeof(Hot)) + extent_of(in_slab, nodes, sizeof(double)) +
           2 * extent_of(in_slab, nodes, 1) + 3 * extent_of(in_slab, nodes, sizeof(NodeId));
}

}  // namespace

template <typename Visit>
void NodeColumns::for_each_column(Visit visit) {
    visit(hot_), visit(values_), visit(parents_), visit(tries_), visit(flags_), visit(next_), visit(priors_);
}

NodeColumns::NodeColumns(uint32_t max_nodes, bool compact) : max_nodes_(max_nodes), compact_(compact) {
    if (compact) {
        grow(1);
    } else {
        reserve();
        room_ = std::min(reservation_->recycled() ? kKeptNodes : kFirstRoom, max_nodes);
    }
}

size_t NodeColumns::columns_to_begin_with(uint32_t max_nodes, bool compact) {
    return compact ? extent_of_all(true, nodes_of_slab(0)) : extent_of_all(false, max_nodes);
}

void NodeColumns::reserve() {
    reservation_.emplace(extent_of_all(false, max_nodes_));
    move_to(reservation_->data(), max_nodes_, false);
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
    if (class_of(nodes) < Slab::kClasses) return move_to_slab(class_of(nodes));
    reserve();
    slab_ = Slab();
    room_ = 0;
    populate(nodes);
}

void NodeColumns::move_to_slab(size_t size_class) {
    const uint32_t room = nodes_of_slab(size_class);
    Slab other(size_class, extent_of_all(true, room));
    move_to(other.data(), room, true);
    slab_ = std::move(other);
    room_ = room;
    std::memset(priors_.at(num_nodes_), 0, (room - num_nodes_) * sizeof(float));
}

// Columns for `nodes` nodes in other memory, with what the old ones hold.
void NodeColumns::move_to(char* memory, size_t nodes, bool in_slab) {
    for_each_column([&](auto& column) {
        const size_t element = sizeof(column[0]), used = num_nodes_ * element;
        char* begin = memory + lead_of(in_slab, element);
        if (used > 0) std::memcpy(begin, column.data, used);
        column.data = reinterpret_cast<decltype(column.data)>(begin);
        memory += extent_of(in_slab, nodes, element);
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
            Reservation::prefer_huge_pages(column.at(0) + small_part(sizeof(column[0])), column.at(max_nodes_));
        }
        Reservation::populate(column.at(from), column.at(room_));
    };
    each(hot_), each(values_), each(parents_), each(tries_), each(flags_);
}

void NodeColumns::shrink(uint32_t nodes) {
    if (has_priors_) std::memset(priors_.at(nodes), 0, (num_nodes_ - nodes) * sizeof(float));
    num_nodes_ = nodes;
    if (reservation_) {
        for_each_column([&](const auto& c) { Reservation::discard(c.at(nodes), c.at(room_)); });
        room_ = nodes;
    } else if (nodes_of_slab(class_of(nodes)) < room_) {
        try {
            move_to_slab(class_of(nodes));
        } catch (const std::bad_alloc&) {  // the slab that is there will do
        }
    }
}

void NodeColumns::copy_columns(const NodeColumns& other) {
    const auto copy = [&](const auto& to, const auto& from) {
        std::memcpy(to.data, from.data, other.num_nodes_ * sizeof(to[0]));
    };
    copy(hot_, other.hot_), copy(values_, other.values_), copy(parents_, other.parents_), copy(tries_, other.tries_);
    copy(flags_, other.flags_), copy(next_, other.next_);
    if (other.has_priors_) copy(priors_, other.priors_);
    num_nodes_ = other.num_nodes_;
    has_priors_ = other.has_priors_;
}

void NodeColumns::forget_priors() {
    if (has_priors_) std::memset(priors_.data, 0, num_nodes_ * sizeof(float));
    has_priors_ = false;
}

}  // namespace bavt
