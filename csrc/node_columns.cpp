#include "node_columns.h"

#include <algorithm>
#include <cstring>

namespace bavt {
namespace {

constexpr size_t kLine = 64;
constexpr uint32_t kFirstRoom = 256;        // nodes of a new reservation: one page of Hot
constexpr uint32_t kKeptNodes = 8192;       // what stays in a reservation for the next tree: 1/4 MB
constexpr uint32_t kLargestStep = 1 << 16;  // nodes
constexpr uint32_t kHugeFrom = 1 << 18;     // nodes from which on huge pages are asked for: 4 MiB of Hot

constexpr uint32_t nodes_of_slab(size_t size_class) { return 64u << (2 * size_class); }

size_t padded(size_t bytes, size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

size_t bytes_of_all_columns(size_t nodes, size_t alignment) {
    return padded(nodes * sizeof(Hot), alignment) + padded(nodes * sizeof(double), alignment) +
           2 * padded(nodes, alignment) + 3 * padded(nodes * sizeof(NodeId), alignment);
}

}  // namespace

template <typename Visit>
void NodeColumns::for_each_column(Visit visit) {
    visit(hot_), visit(values_), visit(parents_), visit(tries_), visit(flags_), visit(next_), visit(priors_);
}

NodeColumns::NodeColumns(uint32_t max_nodes, bool compact) : max_nodes_(max_nodes) {
    num_nodes_ = 0;
    if (compact) {
        grow(1);
    } else {
        reservation_.emplace(bytes_of_all_columns(max_nodes, Reservation::kPage));
        move_to(reservation_->data(), max_nodes, Reservation::kPage);
        room_ = std::min(reservation_->recycled() ? kKeptNodes : kFirstRoom, max_nodes);
    }
    num_nodes_ = 1;
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
        Slab larger(size_class, bytes_of_all_columns(room, kLine));
        move_to(larger.data(), room, kLine);
        slab_ = std::move(larger);
        room_ = room;
        std::memset(priors_.at(num_nodes_), 0, (room - num_nodes_) * sizeof(float));
    } else {
        reservation_.emplace(bytes_of_all_columns(max_nodes_, Reservation::kPage));
        room_ = 0;
        const std::optional<Slab> left(std::move(slab_));
        move_to(reservation_->data(), max_nodes_, Reservation::kPage);
        populate(nodes);
    }
}

// Columns for `nodes` nodes in other memory, with what the old ones hold.
void NodeColumns::move_to(char* memory, size_t nodes, size_t alignment) {
    for_each_column([&](auto& column) {
        const size_t used = num_nodes_ * sizeof(column[0]);
        if (used > 0) std::memcpy(memory, column.data, used);
        column.data = reinterpret_cast<decltype(column.data)>(memory);
        memory += padded(nodes * sizeof(column[0]), alignment);
    });
}

// Pages come in growing steps, one system call for many, and never more than as much again as is in use.
void NodeColumns::populate(uint32_t nodes) {
    const uint32_t from = room_;
    const uint64_t step = std::clamp(from, kFirstRoom, kLargestStep);
    room_ = static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(nodes, from + step), max_nodes_));
    const auto each = [&](const auto& column) {
        if (from <= kHugeFrom && room_ > kHugeFrom) {
            Reservation::prefer_huge_pages(column.at(from), column.at(max_nodes_));
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
